"""The queue of training rows, ``rows.yml``: its groups, and the rows that they stand for, in the order of training."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine import load
from rows import CONFIGS, LAST_TURN, ROOT, Backbone, Row

from mmkdprune.commands.variants import load_variants
from mmkdprune.errors import UsageError

QUEUE = ROOT / "benchmarks" / "rows.yml"
PART_FIELDS = {"seeds", "turn", "rows", "variants", "epochs", "options", "name", "teacher_seed", "backbones"}
SAME = ("config", "options", "epochs", "backbone")  # of two rows with one name


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
    for name, config in (part.get("backbones") or {}).items():
        file = config.get("compact") if isinstance(config, dict) and len(config) == 1 else config
        if not (config is None or isinstance(file, str)):
            raise UsageError(
                f"{place}: backbones.{name} must be a config, {{compact: config}}, or null for random weights, got "
                f"{config!r}"
            )


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
        if [getattr(known, name) for name in SAME] != [getattr(row, name) for name in SAME]:
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
                for name, config, options, backbone in _members(part):
                    yield Row(
                        name=name + suffix + (f"_from-{backbone.name}" if backbone else ""),
                        group=group,
                        config=config,
                        seed=seed,
                        options=(*options, *part.get("options", ())),
                        epochs=epochs,
                        turn=part.get("turn", LAST_TURN),
                        suffix=suffix,
                        teacher_seed=part.get("teacher_seed"),
                        backbone=backbone,
                    )


def _members(part: dict[str, Any]) -> Iterator[tuple[str, Path, tuple[str, ...], Backbone | None]]:
    for config in part.get("rows", []):
        for backbone in _backbones(part):
            yield Path(config).stem, CONFIGS / config, (), backbone
    for file, patterns in part.get("variants", {}).items():
        variants = load_variants(CONFIGS / file)
        for pattern in patterns:
            found = [variant for name, variant in variants.items() if re.search(pattern, name)]
            if not found:
                raise UsageError(f"no variant of {file} matches {pattern!r}")
            for variant in found:
                yield variant.name, variant.config, tuple(variant.option_words()), None


def _backbones(part: dict[str, Any]) -> list[Backbone | None]:
    if "backbones" not in part:
        return [None]
    found: list[Backbone | None] = []
    for name, config in part["backbones"].items():
        compact = isinstance(config, Mapping)
        file = config["compact"] if compact else config
        found.append(Backbone(name, None if file is None else CONFIGS / file, compact))
    return found
