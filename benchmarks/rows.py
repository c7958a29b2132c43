"""Training rows: what they are, which recipe they follow, and where their results stand; the queue lists them."""

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from recipes import recipe_hash

from mmkdprune.commands.pipeline import SOURCES
from mmkdprune.config.reading import config_stem, parse_options, read_config

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
RESULTS = ROOT / "benchmarks" / "results"
BACKBONE = "backbone"  # what a row needs that is fine-tuned
LAST_TURN = 99
# Numbers of epochs in the schedulers of MMEngine.
EPOCH_FIELDS = ("begin", "end", "T_max", "milestones", "step_size", "total_iters")


@dataclass(frozen=True)
class Backbone:
    """What a fine-tuned row starts from.

    Attributes:
        name: For the row's name.
        config: The config that trains it; None for random weights.
        compact: Whether filters that pruning has left at zero are removed first.
    """

    name: str
    config: Path | None = None
    compact: bool = False


@dataclass(frozen=True)
class Row:
    """One training run of the queue.

    Attributes:
        name: Of the result file; the config's name, or a variant's, with what the queue adds.
        group: The queue's group.
        config: The config file.
        seed: The run's seed.
        options: Overrides of the config, ``key=value``.
        epochs: Length of a shortened run.
        turn: Rows of a smaller one are trained first.
        suffix: What the queue adds to the names of configs.
        teacher_seed: Seed of the networks that it learns from; its own if None.
        backbone: What it is fine-tuned from; None for a row that starts as its config says.
    """

    name: str
    group: str
    config: Path
    seed: int
    options: tuple[str, ...] = ()
    epochs: int | None = None
    turn: int = LAST_TURN
    suffix: str = ""
    teacher_seed: int | None = None
    backbone: Backbone | None = None

    def overrides(self) -> list[str]:
        """Everything in which the run differs from its config, but seed, logging and the files it starts from."""
        if self.epochs is None:
            return list(self.options)
        return [*self.options, *shortening(_settings(self.config, self.options), self.epochs)]

    def settings(self) -> Config:
        """The config with the overrides; it is shared, so nobody may change it."""
        return _settings(self.config, tuple(self.overrides()))

    @functools.cached_property
    def needs(self) -> dict[str, "Row"]:
        """The rows whose last checkpoints this one starts from, by the field that names the file."""
        if self.backbone is not None:
            # its own options are those of a detector or segmentor
            alone = dataclasses.replace(self, options=(), epochs=None, suffix="")
            return {} if self.backbone.config is None else {BACKBONE: alone._needed(str(self.backbone.config))}
        model = self.settings().model
        needed = {}
        for source in SOURCES:
            settings = model.get(source)
            key = f"model.{source}.checkpoint"
            given = any(option.split("=")[0] == key for option in self.options)
            if isinstance(settings, Mapping) and "config" in settings and not given:
                needed[key] = self._needed(settings["config"])
        return needed

    def _needed(self, config: str) -> "Row":
        return Row(
            name=config_stem(config) + self.suffix,
            group=self.group,
            config=Path(read_config(config).filename).resolve(),
            seed=self.seed if self.teacher_seed is None else self.teacher_seed,
            options=tuple(option for option in self.options if not option.startswith("model.")),
            epochs=self.epochs,
            turn=self.turn,
            suffix=self.suffix,
        )

    @functools.cached_property
    def hash(self) -> str:
        """Hash of what determines the result but for the seed: its recipe, and those of the rows that it needs."""
        return _hash(dataclasses.replace(self, name="", seed=0))

    @property
    def file_name(self) -> str:
        """Name of the result file."""
        return f"train_{self.name}_seed{self.seed}.json"

    def __str__(self) -> str:
        return f"{self.name}, seed {self.seed}"


@functools.cache
def _settings(config: Path, options: tuple[str, ...]) -> Config:
    return read_config(str(config), parse_options(options))


@functools.cache
def _hash(row: Row) -> str:
    """Hash of a row, whatever its name and seed; there are many rows that differ in nothing else."""
    needed = {key: one.hash for key, one in row.needs.items()}
    if needed and row.teacher_seed is not None:
        needed["seed"] = str(row.teacher_seed)
    if row.backbone is not None:
        needed["starts_from"] = "a compact backbone" if row.backbone.compact else "a backbone"
    return recipe_hash(row.settings(), needed)


def shortening(config: Config, epochs: int) -> list[str]:
    """Overrides that make a run shorter and its learning rate go through the whole schedule all the same.

    Args:
        config: The config of the whole run.
        epochs: The new length.

    Returns:
        Overrides, ``key=value``.
    """
    planned = config.train_cfg.max_epochs
    options = [f"train_cfg.max_epochs={epochs}"]
    schedulers = config.param_scheduler
    is_list = isinstance(schedulers, (list, tuple))
    for index, scheduler in enumerate(schedulers if is_list else [schedulers]):
        if not scheduler.get("by_epoch", True):
            continue
        prefix = f"param_scheduler.{index}" if is_list else "param_scheduler"
        for field in EPOCH_FIELDS:
            if field in scheduler:
                value = scheduler[field]
                numbers = value if isinstance(value, (list, tuple)) else [value]
                scaled = [max(1, round(number * epochs / planned)) if number else 0 for number in numbers]
                options.append(f"{prefix}.{field}={scaled if isinstance(value, (list, tuple)) else scaled[0]}")
    return [option.replace(" ", "") for option in options]


def read_results(folder: Path = RESULTS, pattern: str = "") -> list[dict[str, Any]]:
    """Read the result files of training rows whose row matches a regular expression, by name and seed."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("train_*_seed*.json"))]
    return [row for row in rows if re.search(pattern, row["row"])]


def relative_config(config: Path) -> str:
    """Path of a config in the repository; of another one, as it is."""
    path = config.resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
