"""Training rows: what they are, which recipe they follow, and where their results stand."""

import dataclasses
import functools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine import load
from mmengine.config import Config
from recipes import recipe_hash

from mmkdprune.utils.command_line import UsageError, read_config
from mmkdprune.utils.pipeline import SOURCES, config_stem, parse_options
from mmkdprune.utils.variants import load_variants

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
RESULTS = ROOT / "benchmarks" / "results"
QUEUE = ROOT / "benchmarks" / "rows.yml"
PART_FIELDS = {"seeds", "turn", "rows", "variants", "epochs", "options", "name", "teacher_seed"}
LAST_TURN = 99
# Numbers of epochs in the schedulers of MMEngine.
EPOCH_FIELDS = ("begin", "end", "T_max", "milestones", "step_size", "total_iters")


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
        model = self.settings().model
        needed = {}
        for source in SOURCES:
            settings = model.get(source)
            key = f"model.{source}.checkpoint"
            given = any(option.split("=")[0] == key for option in self.options)
            if isinstance(settings, Mapping) and "config" in settings and not given:
                needed[key] = Row(
                    name=config_stem(settings["config"]) + self.suffix,
                    group=self.group,
                    config=Path(read_config(settings["config"]).filename).resolve(),
                    seed=self.seed if self.teacher_seed is None else self.teacher_seed,
                    options=tuple(option for option in self.options if not option.startswith("model.")),
                    epochs=self.epochs,
                    turn=self.turn,
                    suffix=self.suffix,
                )
        return needed

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
    if row.teacher_seed is not None:
        needed["seed"] = str(row.teacher_seed)
    return recipe_hash(row.settings(), needed)


def load_queue(path: Path = QUEUE) -> dict[str, dict[str, Any]]:
    """Read the queue: its groups by name, each with ``title`` and a list of ``parts``.

    Raises:
        UsageError: A group has unknown or wrong fields.
    """
    queue = load(path)
    if not isinstance(queue, dict):
        raise UsageError(f"{path} must be a mapping of groups")
    for group, entry in queue.items():
        place = f"{path}, group {group}"
        if not isinstance(entry, dict) or "title" not in entry:
            raise UsageError(f"{place}: title must be given")
        if "parts" in entry:
            unknown = sorted(entry.keys() - {"title", "parts"})
            if unknown:
                raise UsageError(f"{place}: {unknown[0]} stands beside parts; put it into each of them")
        else:  # a group of one part
            entry["parts"] = [{key: entry.pop(key) for key in list(entry) if key != "title"}]
        if not isinstance(entry["parts"], list):
            raise UsageError(f"{place}: parts must be a list, got {entry['parts']!r}")
        for part in entry["parts"]:
            _check_part(part, place)
    return queue


def _check_part(part: Any, place: str) -> None:
    if not isinstance(part, dict) or "seeds" not in part:
        raise UsageError(f"{place}: seeds must be given")
    unknown = sorted(part.keys() - PART_FIELDS)
    if unknown:
        raise UsageError(f"{place}: unknown field(s) {unknown}; known: {', '.join(sorted(PART_FIELDS))}")
    check_seeds(part["seeds"], place)
    for field in ("epochs", "turn"):
        value = part.get(field)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UsageError(f"{place}: {field} must be a positive number, got {value!r}")
    if part.get("options") and not part.get("name"):
        raise UsageError(f"{place}: options need a name, which tells its rows from others")


def check_seeds(seeds: Any, place: str) -> None:
    """Refuse what is not a list of different whole numbers.

    Raises:
        UsageError: It is not.
    """
    if not isinstance(seeds, list) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise UsageError(f"{place}: seeds must be a list of whole numbers such as [0, 1, 2], got {seeds!r}")
    twice = [seed for seed in dict.fromkeys(seeds) if seeds.count(seed) > 1]
    if twice:
        raise UsageError(f"{place}: seed {twice[0]} is given twice in {seeds}: name each seed once")


def rows_of(queue: dict[str, dict[str, Any]], groups: Sequence[str], seeds: Sequence[int] | None) -> list[Row]:
    """List the rows of some groups in the order in which they are trained.

    Rows of an earlier ``turn`` come first, whatever their group; within a turn they come as in the queue and seed by
    seed, so that a table has all of its lines early. A row that several groups name is one row, of the first of them.

    Args:
        queue: From :func:`load_queue`.
        groups: Names of groups.
        seeds: Instead of the groups' own.

    Returns:
        The rows.

    Raises:
        UsageError: A group is unknown, or two different rows would have one result file.
    """
    rows: dict[str, Row] = {}
    for row in _rows_of(queue, dict.fromkeys(groups), seeds):
        known = rows.setdefault(row.file_name, row)
        if (known.config, known.options, known.epochs) != (row.config, row.options, row.epochs):
            raise UsageError(f"two rows of the queue are called {row.name}: give one of their groups a name")
    return sorted(rows.values(), key=lambda row: row.turn)


def _rows_of(queue: dict[str, dict[str, Any]], groups: Iterable[str], seeds: Sequence[int] | None) -> Iterator[Row]:
    for group in groups:
        if group not in queue:
            raise UsageError(f"there is no group {group} in the queue; there are {', '.join(queue)}")
        for part in queue[group]["parts"]:
            epochs = part.get("epochs")
            suffix = f"_{part['name']}" if part.get("options") else ""
            suffix += f"_{epochs}e" if epochs else ""
            for seed in part["seeds"] if seeds is None else seeds:
                for name, config, options in _members(part):
                    yield Row(
                        name=name + suffix,
                        group=group,
                        config=config,
                        seed=seed,
                        options=(*options, *part.get("options", ())),
                        epochs=epochs,
                        turn=part.get("turn", LAST_TURN),
                        suffix=suffix,
                        teacher_seed=part.get("teacher_seed"),
                    )


def _members(part: dict[str, Any]) -> Iterator[tuple[str, Path, tuple[str, ...]]]:
    for config in part.get("rows", []):
        yield Path(config).stem, CONFIGS / config, ()
    for file, patterns in part.get("variants", {}).items():
        variants = load_variants(CONFIGS / file)
        for pattern in patterns:
            found = [variant for name, variant in variants.items() if re.search(pattern, name)]
            if not found:
                raise UsageError(f"no variant of {file} matches {pattern!r}")
            for variant in found:
                yield variant.name, variant.config, tuple(variant.option_words())


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
    """Path of a config in the repository."""
    return str(config.resolve().relative_to(ROOT))
