"""What becomes of the output of each convolution: whether it makes features, or results, offsets, gates and such."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from .operators import BATCH_NORMS, GROUP_NORMS, LINEAR, SPLITS
from .ownership import Ownership
from .watcher import Call

# Arguments that tell an operator where to look, by their position.
PLACES = {
    "deform_conv2d": {2: "offsets of a deformable convolution", 3: "modulation of a deformable convolution"},
    **{name: {1: "places that are sampled"} for name in ("grid_sampler_2d", "grid_sampler_3d", "grid_sampler")},
    **{name: {1: "boxes of regions"} for name in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")},
}
SOFTMAXES = ("_softmax", "_log_softmax", "softmax", "log_softmax")
SIGMOIDS = ("sigmoid", "hardsigmoid")
_NONE: frozenset[tuple[str, int]] = frozenset()


class Raw(NamedTuple):
    """Convolutions whose output reaches a tensor through no other layer, each with the first channel of the part of it.

    Attributes:
        plain: Those whose output came through no sigmoid.
        squashed: Those whose output came through one.
    """

    plain: frozenset[tuple[str, int]] = _NONE
    squashed: frozenset[tuple[str, int]] = _NONE

    @property
    def names(self) -> set[str]:
        """The convolutions."""
        return {name for name, _ in self.plain | self.squashed}

    def part(self, start: int) -> Raw:
        """Of the channels from ``start`` on."""
        return Raw(*(frozenset((name, first + start) for name, first in one) for one in self))


class Uses:
    """Follows the outputs of convolutions up to the next layer: another convolution, a linear layer or a norm.

    Args:
        owned (Ownership): Finds the layers of the network.

    Attributes:
        read: Convolutions whose output a layer reads as its input.
        reasons: Those that make no features, with what their output is.
        gates: Those whose output, through a sigmoid, scales other channels.
    """

    def __init__(self, owned: Ownership) -> None:
        self.read: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.gates: set[str] = set()
        self._owned = owned
        self._raw: Any = WeakIdKeyDictionary()  # of every tensor that depends on the input

    def start(self, image: Tensor) -> None:
        """Follow what is computed from a tensor."""
        self._raw[image] = Raw()

    def of(self, value: Any) -> Raw:
        """What is known of a tensor."""
        return self._raw.get(value, Raw()) if isinstance(value, Tensor) else Raw()

    def follow(self, call: Call) -> None:
        """Note what an operator does with what goes into it; to be called when it was run."""
        if not any(value in self._raw for value in call.tensors):
            return
        raw = self._after(call)
        for value in call.results:
            # what is chosen or counted is no feature
            self._raw[value] = raw if value.is_floating_point() or value.is_complex() else Raw()
        if call.name in SPLITS:
            self._split(call)

    def spread(self, target: Tensor, others: Iterable[Tensor]) -> None:
        """What was written through one tensor reaches all others in its memory."""
        if target in self._raw:
            for other in others:
                self._raw[other] = _union([self.of(other), self.of(target)])

    def note_read(self, values: Iterable[Any]) -> None:
        """A layer reads these tensors."""
        for value in values:
            self.read |= self.of(value).names

    def _after(self, call: Call) -> Raw:
        name, args = call.name, call.args
        if name == "convolution":
            return self._convolution(call)
        if name in BATCH_NORMS or name in GROUP_NORMS or name in LINEAR or name.startswith("_scaled_dot_product"):
            self.note_read(call.tensors)
            return Raw()
        if name in SOFTMAXES:
            self._note(args[0], "logits of a softmax")
            return Raw()
        if name.startswith("_sparse_coo_tensor"):  # a matrix of the pixels that regions are made of
            for value in call.tensors:
                self._note(value, "places that are sampled")
            return Raw()
        if name in PLACES:
            for position, what in PLACES[name].items():
                self._note(args[position] if position < len(args) else None, what)
            if name == "deform_conv2d":
                self.note_read(args[:1])
                return Raw()
            return self.of(args[0])
        if name == "mul":
            return self._product(*args[:2])
        raw = _union([self.of(value) for value in call.tensors])
        if name == "glu":  # one half of the channels times the sigmoid of the other
            self.gates |= raw.names
            return Raw()
        if name in SIGMOIDS:
            return Raw(squashed=raw.plain | raw.squashed)
        if name == "slice" and len(args) > 2 and args[1] == 1 and call.result.shape[1] < args[0].shape[1]:
            return raw.part((args[2] or 0) % args[0].shape[1])
        return raw

    def _convolution(self, call: Call) -> Raw:
        images, weight, transposed, groups = call.args[0], call.args[1], call.args[6], call.args[8]
        self._note(weight, "weights of another convolution")
        owner = self._owned.get(weight)
        is_own = owner is not None and isinstance(owner.module, nn.Conv2d) and not transposed
        made = frozenset(((owner.name, 0),)) if owner is not None and is_own else _NONE
        if is_own and groups == images.shape[1] == call.result.shape[1] and groups > 1:
            return Raw(self.of(images).plain | made, self.of(images).squashed)
        self.note_read([images])
        return Raw(made)

    def _product(self, first: Any, second: Any) -> Raw:
        one, other = self.of(first), self.of(second)
        if not all(isinstance(value, Tensor) and value in self._raw for value in (first, second)):
            return _union([one, other])
        gates = (one.squashed - other.plain) | (other.squashed - one.plain)
        self.gates |= {name for name, _ in gates}
        both = _union([one, other])
        return Raw(both.plain - gates, both.squashed - gates)

    def _split(self, call: Call) -> None:
        whole, dim = call.args[0], call.args[2] if len(call.args) > 2 else 0
        if dim % whole.ndim == 1 and len(call.results) > 1:
            start = 0
            for part in call.results:
                self._raw[part] = self.of(whole).part(start)
                start += part.shape[1]

    def _note(self, value: Any, what: str) -> None:
        for name in self.of(value).names:
            self.reasons.setdefault(name, what)


def _union(all_raw: list[Raw]) -> Raw:
    plain = _NONE.union(*(raw.plain for raw in all_raw))
    return Raw(plain, _NONE.union(*(raw.squashed for raw in all_raw)))
