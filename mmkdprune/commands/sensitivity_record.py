"""The file of ``mmkdprune sensitivity``: what has been measured, so that a second call goes on."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.errors import UsageError
from mmkdprune.pruning.sensitivity import Candidates, Curve

_FORMAT = 1
_ORIGIN = "mmkdprune sensitivity"


class SensitivityRecord:
    """What has been measured, in a JSON file that is replaced as a whole after every point.

    A point belongs to a layer (or group) and a number of masked filters, so that other rates add to what there is.

    Args:
        path (Path): The file; read where it exists.
        settings (Mapping[str, Any]): All that the points depend on, in plain types.
        overwrite (bool): Begin anew.

    Attributes:
        content (dict): Of the file.

    Raises:
        UsageError: If the file was measured with other settings, or is no such file.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], overwrite: bool = False) -> None:
        self.path = path
        self.content: dict[str, Any] = {"made_by": _ORIGIN, "format": _FORMAT, "settings": dict(settings)}
        self.content |= {"part": "", "rates": [], "seconds": 0.0, "layers": {}}
        if path.exists() and not overwrite:
            self.content = _read(path)
            self._compare(settings)

    def add_layers(self, candidates: Candidates, rates: Iterable[float]) -> None:
        """Add layers without points, and rates, where they are not there."""
        self.content["part"] = candidates.part
        self.content["rates"] = sorted({*self.content["rates"], *rates})
        for unit in candidates.units:
            empty = {"layers": unit.members, "filters": unit.size, "points": {}}
            self.content["layers"].setdefault(unit.name, empty)
        self.content["left_alone"] = candidates.skipped

    def has(self, layer: str, number: int) -> bool:
        """Whether a point has been measured."""
        return str(number) in self.content["layers"][layer]["points"]

    def add(self, layer: str, number: int, metrics: Mapping[str, float], seconds: float) -> None:
        """Add a point, and write the file.

        Args:
            layer (str): Name of layer or group.
            number (int): Of masked filters.
            metrics (Mapping[str, float]): By name.
            seconds (float): What it took.
        """
        points = self.content["layers"][layer]["points"]
        points[str(number)] = dict(metrics)
        self.content["layers"][layer]["points"] = {key: points[key] for key in sorted(points, key=int)}
        self.content["seconds"] = round(self.content["seconds"] + seconds, 2)
        self.save()

    def curves(self, metric: str, sign: int, dense: float) -> dict[str, Curve]:
        """Curves of a metric by layer.

        Args:
            metric (str): Its name.
            sign (int): -1 if a lower one is better, else 1.
            dense (float): Value of the network of which nothing is masked.
        """
        found = {}
        for name, layer in self.content["layers"].items():
            points = {int(number): sign * metrics[metric] for number, metrics in layer["points"].items()}
            found[name] = Curve(layer["filters"], {0: sign * dense, **points})
        return found

    def save(self) -> None:
        """Write the file."""
        with atomic_write(self.path, "w", "utf-8") as stream:
            stream.write(json.dumps(self.content, indent=1) + "\n")

    def _compare(self, settings: Mapping[str, Any]) -> None:
        there = self.content["settings"]
        for name in dict.fromkeys((*there, *settings)):
            if there.get(name) != settings.get(name):
                raise UsageError(
                    f"{self.path} was measured with other settings, {name}: {there.get(name)!r} there, "
                    f"{settings.get(name)!r} here. Give another --out, or measure anew with --overwrite"
                )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        is_ours = content["made_by"] == _ORIGIN and content["format"] == _FORMAT
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise UsageError(f"{path} is no file of this version of {_ORIGIN}: give another --out, or --overwrite")
    return content
