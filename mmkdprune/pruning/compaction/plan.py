"""The plan of a compaction: which channels of which layers stay, as plain JSON that rebuilds the small network."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmkdprune.arguments import checked
from mmkdprune.checkpoint.loading import UnsafeCheckpointError, load_checkpoint_file
from mmkdprune.version import __version__

FORMAT = "mmkdprune compaction plan"
VERSION = 1
SIDES = ("out", "in")


class PlanError(ValueError):
    """A plan cannot be read, or is not for this network; the message says what differs."""


@checked
@dataclass
class Plan:
    """Which channels stay, layer by layer.

    Attributes:
        layers: By module name, ``out`` and ``in``: ``dict(of=number of channels before, kept=sorted indices)``; absent
            where all stay. ``in`` counts the channels of all groups of a grouped convolution. ``scatter`` of a
            BatchNorm: ``dict(of=number of channels it gives, to=their indices)``, the others being zero.
        architectures: Fingerprints of the dense network (``''``) and of each of its parts.
        widths: Channels that come out of composed modules where that changed: (before, after).
        attributes: Sizes that modules keep as attributes, by module and name, where they changed: (before, after).
        left: Zero filters that stay: their number and the reason, by layer.
        network: Class name of the dense network.
        check: What the comparison with the dense network gave; {} if none was made.
        divisor: Numbers of kept channels are multiples of this where possible.
        package: Version of this package that made the plan.
    """

    layers: dict[str, dict[str, dict]]
    architectures: dict[str, str]
    widths: dict[str, tuple[int, int]] = field(default_factory=dict)
    attributes: dict[str, dict[str, tuple[Any, Any]]] = field(default_factory=dict)
    left: dict[str, tuple[int, str]] = field(default_factory=dict)
    network: str = ""
    check: dict[str, Any] = field(default_factory=dict)
    divisor: int = 1
    package: str = __version__

    def kept(self, layer: str, side: str = "out") -> list[int] | None:
        """Channels of a layer that stay, or None if all do."""
        entry = self.layers.get(layer, {}).get(side)
        return entry["kept"] if entry else None

    def part(self, name: str) -> Plan:
        """The plan of one part of the network, with layer names within that part.

        Raises:
            PlanError: If the plan knows no such part.
        """
        if name not in self.architectures:
            known = ", ".join(sorted(filter(None, self.architectures))) or "no parts"
            raise PlanError(f"the plan is of a {self.network} with {known}, not with a {name}")
        prefix = f"{name}."

        def within(entries: Mapping[str, Any]) -> dict[str, Any]:
            inner = {key.removeprefix(prefix): value for key, value in entries.items() if key.startswith(prefix)}
            return inner | ({"": entries[name]} if name in entries else {})

        return Plan(
            layers=within(self.layers),
            architectures={"": self.architectures[name]},
            widths=within(self.widths),
            attributes=within(self.attributes),
            left=within(self.left),
            network=self.network,
            check=self.check,
            divisor=self.divisor,
            package=self.package,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain form, with format, version and checksum."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "package": self.package,
            "network": self.network,
            "architectures": dict(self.architectures),
            "divisor": self.divisor,
            "check": self.check,
            "widths": {name: list(pair) for name, pair in self.widths.items()},
            "attributes": {
                name: {key: [_plain(value) for value in pair] for key, pair in pairs.items()}
                for name, pairs in self.attributes.items()
            },
            "left": {name: list(entry) for name, entry in self.left.items()},
            "layers": self.layers,
        }
        return {**content, "checksum": _checksum(content)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """Read the plain form.

        Raises:
            PlanError: If it is no plan, of another version, changed after it was written, or makes no sense.
        """
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise PlanError(f"this is no compaction plan: it lacks format={FORMAT!r} (mmkdprune compact writes plans)")
        if content.get("version") != VERSION:
            raise PlanError(
                f"the plan has version {content.get('version')!r}, this package reads {VERSION}: compact the dense "
                "checkpoint again, or use the package's version that wrote it"
            )
        body = {key: value for key, value in content.items() if key != "checksum"}
        if content.get("checksum") != _checksum(body):
            raise PlanError(
                "the plan was changed after it was written (its checksum differs): the weights beside it fit the "
                "original one only; take that, or compact the dense checkpoint again"
            )
        _check_fields(content)
        plan = cls(
            layers={name: dict(entry) for name, entry in content["layers"].items()},
            architectures=dict(content["architectures"]),
            widths={name: (pair[0], pair[1]) for name, pair in content["widths"].items()},
            attributes={
                name: {key: (pair[0], pair[1]) for key, pair in pairs.items()}
                for name, pairs in content.get("attributes", {}).items()
            },
            left={name: (entry[0], entry[1]) for name, entry in content["left"].items()},
            network=content["network"],
            check=dict(content["check"]),
            divisor=content["divisor"],
            package=content["package"],
        )
        plan.validate()
        return plan

    def validate(self) -> None:
        """Check that all indices make sense.

        Raises:
            PlanError: If one does not; the message names the layer.
        """
        for layer, entry in self.layers.items():
            for side, value in entry.items():
                where = f"plan, layer {layer}, {side}"
                indices = value.get("to" if side == "scatter" else "kept") if isinstance(value, Mapping) else None
                if side not in (*SIDES, "scatter") or not isinstance(indices, list) or not indices:
                    raise PlanError(f"{where}: expected a list of the channels that stay, got {value!r}")
                if not all(isinstance(index, int) for index in [value.get("of"), *indices]):
                    raise PlanError(f"{where}: channels are whole numbers")
                ascending = all(one < other for one, other in itertools.pairwise(indices))
                if not ascending or indices[0] < 0 or indices[-1] >= value["of"]:
                    raise PlanError(f"{where}: channels must ascend from 0 to {value['of'] - 1}")

    def dumps(self) -> str:
        """JSON text, one line a layer."""
        content = self.to_dict()
        lines = []
        for key, value in content.items():
            if isinstance(value, dict) and value:
                inner = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items())
                lines.append(f"{json.dumps(key)}: {{\n{inner}\n }}")
            else:
                lines.append(f"{json.dumps(key)}: {json.dumps(value)}")
        return "{\n " + ",\n ".join(lines) + "\n}\n"


# Type of each field, and what a member of it must be.
_FIELDS: dict[str, tuple[type | tuple[type, ...], Callable[[Any], bool]]] = {
    "layers": (Mapping, lambda entry: isinstance(entry, Mapping)),
    "architectures": (Mapping, lambda text: isinstance(text, str)),
    "widths": (Mapping, lambda pair: _is_pair(pair) and isinstance(pair[0], int) and isinstance(pair[1], int)),
    "left": (Mapping, lambda pair: _is_pair(pair) and isinstance(pair[0], int) and isinstance(pair[1], str)),
    "check": (Mapping, lambda value: True),
    "network": (str, lambda value: True),
    "package": (str, lambda value: True),
    "divisor": (int, lambda value: True),
}


def _is_pair(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) == 2


def _check_fields(content: Mapping[str, Any]) -> None:
    """Refuse what has a plan's format but not its fields: its checksum says only that it is whole."""
    for name, (kind, is_good) in _FIELDS.items():
        value = content.get(name)
        if not isinstance(value, kind) or isinstance(value, bool):
            found = f"{type(value).__name__} {value!r:.80}" if name in content else "nothing"
            expected = "a dict" if kind is Mapping else f"a {kind.__name__}"  # type: ignore[union-attr]
            raise PlanError(f"plan, {name}: expected {expected}, got {found}; mmkdprune compact writes plans")
        for key, item in value.items() if isinstance(value, Mapping) else ():
            if not isinstance(key, str) or not is_good(item):
                raise PlanError(f"plan, {name}: {key!r} has a value that mmkdprune compact never writes, {item!r:.80}")
    if "" not in content["architectures"]:
        raise PlanError("plan, architectures: the fingerprint of the dense network (key '') is missing")


@checked
def load_plan(source: str | Path | Mapping[str, Any] | Plan) -> Plan:
    """Read a plan from a JSON file, from a checkpoint of a compact network that tools wrote, or from its plain form.

    Raises:
        PlanError: If there is none, or it is not valid.
        FileNotFoundError: If the file does not exist.
        CorruptCheckpointError: If it is a checkpoint, and damaged.
    """
    if isinstance(source, Plan):
        return source
    if isinstance(source, Mapping):
        return Plan.from_dict(source)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"there is no plan {path}; mmkdprune compact writes one beside the compact checkpoint")
    if path.suffix in (".pth", ".pt"):
        try:
            plan = _inside(load_checkpoint_file(path), "meta", "model", "backbone", "plan")
        except TypeError:  # it holds no dictionary
            plan = None
        except UnsafeCheckpointError as error:
            raise PlanError(f"no plan can be read: {error}") from None
        if not isinstance(plan, Mapping):
            raise PlanError(
                f"{path} holds no plan: it is neither a checkpoint that mmkdprune compact wrote nor an export of one"
            )
        try:
            return Plan.from_dict(plan)
        except PlanError as error:
            raise PlanError(f"{path}: {error}") from None
    try:
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise PlanError(f"{path} is no JSON file: {error}") from None
    except PlanError as error:
        raise PlanError(f"{path}: {error}") from None


def _inside(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def fingerprint(network: nn.Module) -> str:
    """Hash of the names and shapes of all parameters and statistics: equal for equal architectures."""
    lines = [
        f"{name} {list(value.shape)}"
        for name, value in network.state_dict().items()
        if isinstance(value, torch.Tensor) and not name.endswith("num_batches_tracked")
    ]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def fingerprints(network: nn.Module) -> dict[str, str]:
    """Fingerprints of a network (``''``) and of its direct parts that have weights."""
    parts = {name: fingerprint(part) for name, part in network.named_children() if list(part.parameters())}
    return {"": fingerprint(network), **parts}


def _checksum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(_plain(content), sort_keys=True).encode()).hexdigest()


def _plain(value: Any) -> Any:
    """As JSON gives it back, whatever kind of dict a config made of it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
