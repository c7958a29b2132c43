"""Note the values of a further pass of a network without following its channels again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..tracing.steps import Seen, Step, numbers_of, summary_of
from ..tracing.watcher import Call, Watcher


class OtherStepsError(Exception):
    """A pass uses other operators, or gives them other shapes or numbers, than the one before it."""


class Replay(Watcher):
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

    def watch(self, call: Call) -> None:
        """Run the operator, then note what came out."""
        call.run()
        step = self._known[len(self.steps)] if len(self.steps) < len(self._known) else None
        self._same = self._same and step is not None and self._is_step(step, call)
        if step is None or not self._same:
            raise OtherStepsError
        seen = [
            replace(
                known, shape=value.shape, summary=summary_of(value, known.dim) if known.summary is not None else None
            )
            for value, known in zip(call.results, step.results, strict=True)
        ]
        self.steps.append(replace(step, results=seen))

    def _is_step(self, step: Step, call: Call) -> bool:
        if call.name != step.name or len(call.results) != len(step.results) or numbers_of(call) != step.numbers:
            return False
        owner = next((self._owners[id(value)] for value in call.tensors if id(value) in self._owners), None)
        return owner in (None, step.layer) and all(map(_same_form, call.results, step.results))

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
