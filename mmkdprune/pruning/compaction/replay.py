"""Note the values of a further pass of a network without following its channels again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..forward import flat
from ..tracing.operators import base_name, bound
from ..tracing.steps import Seen, Step, numbers_of, summary_of


class OtherStepsError(Exception):
    """A pass uses other operators, or gives them other shapes or numbers, than the one before it."""


class Replay(TorchDispatchMode):
    """Watches a pass that takes the same steps as one whose channels were followed, and notes its values alone.

    That costs a fraction of following the channels again. Only the number of images and the sizes of maps may
    differ.

    Args:
        steps (Sequence[Step]): Those of the pass that was followed.
        owners (Mapping[int, str]): Layer of each parameter and buffer, by ``id``.

    Raises:
        OtherStepsError: At the first step that is another one. Its channels must be followed.
    """

    def __init__(self, steps: Sequence[Step], owners: Mapping[int, str]) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._known, self._owners, self._same = steps, owners, True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator, then note what came out."""
        args, kwargs = bound(func, args, kwargs or {})
        out = func(*args, **kwargs)
        results = [value for value in flat(out) if isinstance(value, Tensor)]
        step = self._known[len(self.steps)] if len(self.steps) < len(self._known) else None
        self._same = self._same and step is not None and self._is_step(step, func, args, kwargs, results)
        if step is None or not self._same:
            raise OtherStepsError
        seen = [
            replace(
                known, shape=value.shape, summary=summary_of(value, known.dim) if known.summary is not None else None
            )
            for value, known in zip(results, step.results, strict=True)
        ]
        self.steps.append(replace(step, results=seen))
        return out

    def _is_step(
        self, step: Step, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], results: list[Tensor]
    ) -> bool:
        if base_name(func) != step.name or len(results) != len(step.results):
            return False
        if numbers_of(step.name, args, kwargs) != step.numbers:
            return False
        owner = next((self._owners[id(value)] for value in flat([args, kwargs]) if id(value) in self._owners), None)
        return owner in (None, step.layer) and all(map(_same_form, results, step.results))

    def finish(self) -> list[Step]:
        """The steps, when the network returned."""
        if not self._same or len(self.steps) != len(self._known):
            raise OtherStepsError
        return self.steps


def _same_form(value: Tensor, seen: Seen) -> bool:
    """Whether a result can have the channels of another one."""
    if value.ndim != len(seen.shape) or bool(value.numel()) != bool(seen.shape.numel()):
        return False
    return seen.dim is None or value.shape[seen.dim] == seen.shape[seen.dim]
