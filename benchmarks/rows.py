"""Training rows: what they are, which recipe they follow, and where their results stand."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine import load
from mmengine.config import Config

from mmkdprune.utils.command_line import UsageError, read_config
from mmkdprune.utils.pipeline import comparable_settings, parse_options
from mmkdprune.utils.variants import load_variants

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
RESULTS = ROOT / "benchmarks" / "results"
# What decides the figures beside what decides the weights.
ALSO_HASHED = ("data_preprocessor", "speed", "compile", "val_evaluator", "val_cfg")
QUEUE = ROOT / "benchmarks" / "rows.yml"
FIELDS = {"title", "seeds", "rows", "variants", "epochs", "options", "name"}
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
    """

    name: str
    group: str
    config: Path
    seed: int
    options: tuple[str, ...] = ()
    epochs: int | None = None

    def overrides(self) -> list[str]:
        """Everything in which the run differs from its config, but seed and logging."""
        if self.epochs is None:
            return list(self.options)
        config = read_config(str(self.config), parse_options(self.options))
        return [*self.options, *shortening(config, self.epochs)]

    def settings(self) -> Config:
        """The config with the overrides."""
        return read_config(str(self.config), parse_options(self.overrides()))

    @property
    def file_name(self) -> str:
        """Name of the result file."""
        return f"train_{self.name}_seed{self.seed}.json"


def load_queue(path: Path = QUEUE) -> dict[str, dict[str, Any]]:
    """Read the queue: its groups by name.

    Raises:
        UsageError: A group has unknown or wrong fields.
    """
    queue = load(path)
    if not isinstance(queue, dict):
        raise UsageError(f"{path} must be a mapping of groups")
    for group, entry in queue.items():
        if not isinstance(entry, dict) or not {"title", "seeds"} <= entry.keys():
            raise UsageError(f"{path}, group {group}: title and seeds must be given")
        unknown = sorted(entry.keys() - FIELDS)
        if unknown:
            raise UsageError(f"{path}, group {group}: unknown field(s) {unknown}; known: {', '.join(sorted(FIELDS))}")
        epochs = entry.get("epochs")
        if epochs is not None and (not isinstance(epochs, int) or epochs < 1):
            raise UsageError(f"{path}, group {group}: epochs must be a positive number, got {epochs!r}")
        if entry.get("options") and not entry.get("name"):
            raise UsageError(f"{path}, group {group}: options need a name, which tells its rows from others")
    return queue


def rows_of(queue: dict[str, dict[str, Any]], groups: Sequence[str], seeds: Sequence[int] | None) -> Iterator[Row]:
    """List the rows of some groups, seed by seed, so that a table has all of its lines early.

    Args:
        queue: From :func:`load_queue`.
        groups: Names of groups.
        seeds: Instead of the groups' own.

    Yields:
        Row: The runs.

    Raises:
        UsageError: A group is unknown, or two rows would have one result file.
    """
    names = set()
    for row in _rows_of(queue, dict.fromkeys(groups), seeds):
        if row.file_name in names:
            raise UsageError(f"two rows of the queue are called {row.name}: give one of their groups a name")
        names.add(row.file_name)
        yield row


def _rows_of(queue: dict[str, dict[str, Any]], groups: Iterable[str], seeds: Sequence[int] | None) -> Iterator[Row]:
    for group in groups:
        if group not in queue:
            raise UsageError(f"there is no group {group} in the queue; there are {', '.join(queue)}")
        entry = queue[group]
        for seed in entry["seeds"] if seeds is None else seeds:
            for name, config, options in _members(entry):
                if entry.get("options"):
                    options, name = (*options, *entry["options"]), f"{name}_{entry['name']}"
                epochs = entry.get("epochs")
                name = f"{name}_{epochs}e" if epochs else name
                yield Row(name, group, config, seed, tuple(options), epochs)


def _members(entry: dict[str, Any]) -> Iterator[tuple[str, Path, tuple[str, ...]]]:
    for config in entry.get("rows", []):
        yield Path(config).stem, CONFIGS / config, ()
    for file, patterns in entry.get("variants", {}).items():
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


def config_hash(settings: Config) -> str:
    """Hash what determines a run's result: network, data, schedule, hooks, precision, test; not its seed."""
    recipe = comparable_settings(settings, leave_out=("randomness",))
    recipe |= {name: settings[name] for name in ALSO_HASHED if name in settings}
    recipe["tested_on"] = comparable_settings(Config({"train_dataloader": settings.val_dataloader}))
    recipe["precision"] = [settings.optim_wrapper.get(name) for name in ("type", "dtype")]
    recipe["deterministic"] = (settings.get("randomness") or {}).get("deterministic", False)
    text = json.dumps(recipe, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_results(folder: Path = RESULTS, pattern: str = "") -> list[dict[str, Any]]:
    """Read the result files of training rows whose row matches a regular expression, by name and seed."""
    rows = [json.loads(path.read_text()) for path in sorted(folder.glob("train_*_seed*.json"))]
    return [row for row in rows if re.search(pattern, row["row"])]


def relative_config(config: Path) -> str:
    """Path of a config in the repository."""
    return str(config.resolve().relative_to(ROOT))
