"""A backbone's config, read once: its dense network, whichever form a compact one is written in."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .network import COMPACT_TYPE


@dataclass(frozen=True)
class BackboneSettings:
    """What a config says of a backbone.

    A compact backbone is written in two forms: with the config of the dense network in it, or with its type in it and
    its settings beside.

    Attributes:
        dense: Config of the dense network, without initialisation and plan.
        is_compact: Whether the config is of the compact form.
        plan: What the config of a compact backbone says of its plan.
    """

    dense: dict[str, Any]
    is_compact: bool = False
    plan: Any = None

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> "BackboneSettings":
        """Read a config; it stays as it is.

        Args:
            config (Mapping[str, Any]): Value of a ``backbone`` field.
        """
        given = {key: value for key, value in config.items() if key != "init_cfg"}
        if given["type"] not in (COMPACT_TYPE, COMPACT_TYPE.rpartition(".")[2]):
            return cls(given)
        inner, plan = given.pop("backbone"), given.pop("plan", None)
        dense = dict(inner) if isinstance(inner, Mapping) else {**given, "type": inner}
        return cls(dense, True, plan)

    @property
    def class_name(self) -> str:
        """Name of the dense network's class, without scope."""
        return class_name(self.dense)

    def get(self, name: str, default: Any = None) -> Any:
        """A setting of the dense network."""
        return self.dense.get(name, default)

    def candidates(self) -> "list[BackboneSettings]":
        """Networks that a checkpoint of this backbone may be of: itself, and without a deep stem where it has one."""
        if self.class_name != "ResNetV1c":
            return [self]
        return [self, replace(self, dense={**self.dense, "type": self.dense["type"].removesuffix("V1c")})]

    def to_config(self, is_compact: bool, plan: str | None = None) -> dict[str, Any]:
        """Write the config of the dense or of the compact network.

        Args:
            is_compact (bool): Which of them.
            plan (str, optional): File with the plan. Defaults to None, the file that ``init_cfg`` names.
        """
        settings = {key: value for key, value in self.dense.items() if key != "pretrained"}
        if is_compact:
            settings |= {"type": COMPACT_TYPE, "backbone": self.dense["type"]}
            settings |= {} if plan is None else {"plan": plan}
        return settings


def class_name(settings: Mapping[str, Any]) -> str:
    """Name of the class that a config's type names, without scope."""
    return str(settings["type"]).rpartition(".")[2]
