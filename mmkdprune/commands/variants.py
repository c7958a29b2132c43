"""Runs that are written down as a list: a config and the options in which they differ from it."""

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.fileio import load


@dataclass(frozen=True)
class Variant:
    """A run that is a config with some options set.

    Attributes:
        name: Its name, in the grammar of config files.
        config: The config.
        options: What it changes, as ``mmkdprune train --cfg-options`` takes it: dotted key to value.
        values: The value of each axis.
    """

    name: str
    config: Path
    options: dict[str, Any]
    values: dict[str, str]

    def option_words(self) -> list[str]:
        """The options as words of a command line."""
        return [f"{key}={value}" for key, value in self.options.items()]


def load_variants(path: str | os.PathLike) -> dict[str, Variant]:
    """Read a list of variants.

    Args:
        path (str | os.PathLike): YAML file with ``variants``: entries of ``name``, ``config`` (beside the file) and
            ``axes``, each a mapping of value to options. Every combination of values is a variant; names, configs and
            options that are text may contain ``{axis}``.

    Returns:
        dict[str, Variant]: By name, in the order of the file.

    Raises:
        ValueError: If two combinations have the same name.
    """
    path = Path(path)
    variants: dict[str, Variant] = {}
    for entry in load(path)["variants"]:
        axes = entry["axes"]
        for combination in itertools.product(*(axis.items() for axis in axes.values())):
            values = {axis: value for axis, (value, _) in zip(axes, combination, strict=True)}
            options = {key: value for _, options in combination for key, value in options.items()}
            options = {key: _filled(value, values) for key, value in options.items()}
            name = entry["name"].format(**values)
            if name in variants:
                raise ValueError(f"{path}: two variants are called {name}")
            variants[name] = Variant(name, path.parent / entry["config"].format(**values), options, values)
    return variants


def _filled(value: Any, values: dict[str, str]) -> Any:
    return value.format(**values) if isinstance(value, str) else value
