"""The terms of dense distillation: which maps each loss compares, and the adapters between them."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmkdprune.arguments import checked
from mmkdprune.randomness import isolated_random_state
from mmkdprune.registry import MODELS

from ..losses import ClassMapDistillationLoss
from .dense_taps import Tap, class_map_head, find_tap, maps_of, probe

_OWN = ("at", "levels", "adapter")


class Term(nn.Module):
    """One loss between the maps of one place.

    Args:
        settings (dict): The entry of ``losses``.
        field (str): Its place in the config, for messages.
        student (nn.Module): The network that learns.
        teacher (nn.Module): The network that is imitated.

    Raises:
        ValueError: If the two do not fit.
    """

    def __init__(self, settings: Mapping[str, Any], field: str, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.field, self.at = field, settings["at"]
        self.taps = tuple(find_tap(network, self.at, f"{field}.at") for network in (student, teacher))
        self.loss = _build_loss(settings, student)
        ours, theirs = (probe(network, [tap])[0] for network, tap in zip((student, teacher), self.taps, strict=True))
        self.levels = self._find_levels(settings.get("levels"), len(ours), len(theirs))
        adapter, self.adapters = settings.get("adapter", False), nn.ModuleDict()
        for level in self.levels:
            self._check_trains(ours[level], level)
            widths = ours[level].shape[1], theirs[level].shape[1]
            if adapter and widths[0] != widths[1]:
                self.adapters[str(level)] = nn.Conv2d(*widths, kernel_size=1)
        with torch.no_grad():
            self(ours, theirs)

    def forward(self, ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
        """Add up the loss over the levels.

        Args:
            ours (Sequence[Tensor]): Maps of the student, one (N, C, H, W) per level.
            theirs (Sequence[Tensor]): Maps of the teacher.

        Returns:
            Tensor: A scalar.
        """
        if max(self.levels) >= min(len(ours), len(theirs)):
            raise ValueError(
                f"DenseDistillation: {self.field}.at={self.at!r} gives no map of level {max(self.levels)} in the "
                "training step: the network calls that module in another way; choose one inside it."
            )
        values = []
        for level in self.levels:
            student = self.adapters[str(level)](ours[level]) if str(level) in self.adapters else ours[level]
            try:
                values.append(self.loss(student, theirs[level]))
            except ValueError as error:
                raise ValueError(f"DenseDistillation: {self.field}, at={self.at!r}, level {level}: {error}") from None
        return torch.stack(values).sum()

    def _find_levels(self, given: Any, ours: int, theirs: int) -> list[int]:
        if not min(ours, theirs):
            raise ValueError(f"DenseDistillation: {self.field}.at={self.at!r} gives no map of shape (N, C, H, W).")
        if given is None:
            if ours != theirs:
                raise ValueError(
                    f"DenseDistillation: {self.field}: at {self.at!r} the student has {ours} levels and the teacher "
                    f"{theirs}: name those to compare, levels={list(range(min(ours, theirs)))}."
                )
            return list(range(ours))
        good = isinstance(given, list | tuple) and given
        if not good or not all(isinstance(level, int) and 0 <= level < min(ours, theirs) for level in given):
            raise ValueError(
                f"DenseDistillation: {self.field}.levels must be a list of numbers from 0 to {min(ours, theirs) - 1}, "
                f"got {given!r}."
            )
        return list(given)

    def _check_trains(self, maps: Tensor, level: int) -> None:
        if not maps.requires_grad:
            raise ValueError(
                f"DenseDistillation: {self.field}: level {level} of {self.at!r} is frozen in the student, and cannot "
                "learn: leave it out with levels=[...], or unfreeze it (frozen_stages)."
            )


class DenseTerms(nn.ModuleDict):
    """All terms by their names in the log.

    Args:
        losses (Sequence[Mapping]): Entries of the config's ``losses``.
        student (nn.Module): The network that learns.
        teacher (nn.Module): The network that is imitated.
    """

    @checked
    def __init__(self, losses: Sequence[Mapping[str, Any]], student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        with isolated_random_state("DenseDistillation.adapters"):
            for index, settings in enumerate(losses):
                if _weight(settings) == 0:
                    continue
                term = Term(settings, f"losses[{index}]", student, teacher)
                self[self._name(term)] = term

    def taps(self, network: int) -> list[Tap]:
        """Where the maps of each term are, in the student (0) or the teacher (1)."""
        return [cast(Term, term).taps[network] for term in self.values()]

    def of_teacher(self, teacher: nn.Module, images: Tensor) -> list[list[Tensor]]:
        """Run the teacher as far as its maps are needed.

        Args:
            teacher (nn.Module): The network.
            images (Tensor): Normalised images, (N, C, H, W).

        Returns:
            list[list[Tensor]]: The maps of each term.
        """
        return maps_of(teacher, self.taps(1), images)

    def losses(self, ours: Sequence[list[Tensor]], theirs: Sequence[list[Tensor]]) -> dict[str, Tensor]:
        """Compute all terms.

        Args:
            ours (Sequence[list[Tensor]]): The student's maps of each term.
            theirs (Sequence[list[Tensor]]): The teacher's.

        Returns:
            dict[str, Tensor]: Weighted scalars.
        """
        return {name: term(*maps) for (name, term), *maps in zip(self.items(), ours, theirs, strict=True)}

    def _name(self, term: Any) -> str:
        kind = re.sub(r"(Distillation)?Loss$", "", type(term.loss).__name__)
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind).lower()
        name = f"loss_{kind}_{term.at.replace('.', '_')}"
        same = sum(known == name or known.startswith(f"{name}_") for known in self)
        return f"{name}_{same + 1}" if same else name


def check_losses(losses: Any) -> None:
    """Refuse a ``losses`` that is not a list of entries with ``type`` and ``at``.

    Raises:
        ValueError: With the field and its value.
    """
    if not isinstance(losses, list | tuple) or not losses:
        raise ValueError(
            "DenseDistillation: losses must be a list such as [dict(type='mmkdprune.ChannelWiseDistillationLoss', "
            f"at='logits')], got {losses!r}."
        )
    for index, settings in enumerate(losses):
        if not isinstance(settings, Mapping) or not all(isinstance(settings.get(key), str) for key in ("type", "at")):
            raise ValueError(
                f"DenseDistillation: losses[{index}] needs type and at ('backbone', 'neck', 'logits' or the path of a "
                f"module), got {settings!r}."
            )


def is_used(losses: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any loss has a weight."""
    return any(_weight(settings) != 0 for settings in losses)


def _weight(settings: Mapping[str, Any]) -> Any:
    return settings.get("loss_weight")


def _build_loss(settings: Mapping[str, Any], student: nn.Module) -> nn.Module:
    arguments = {key: value for key, value in settings.items() if key not in _OWN}
    kind = MODELS.get(settings["type"])
    if inspect.isclass(kind) and issubclass(kind, ClassMapDistillationLoss) and settings["at"] == "logits":
        arguments = {**_classes_of(class_map_head(student)), **arguments}
    return MODELS.build(arguments)


def _classes_of(head: Any) -> dict[str, Any]:
    """How the classes of a head are arranged."""
    if hasattr(head, "cls_out_channels"):
        return {"num_classes": head.cls_out_channels, "use_sigmoid": bool(getattr(head, "use_sigmoid_cls", False))}
    loss = getattr(head, "loss_decode", None)
    loss = loss[0] if isinstance(loss, nn.ModuleList) else loss
    return {"num_classes": head.out_channels, "use_sigmoid": bool(getattr(loss, "use_sigmoid", False))}
