"""Whether a run goes on from a checkpoint, and the error for one that it cannot go on from."""

from typing import Any

ITERATIONS_PER_EPOCH = "iterations_per_epoch"


class ResumeError(ValueError):
    """A checkpoint that this run cannot continue."""


def is_resumed(runner: Any) -> bool:
    """Whether a run goes on from a checkpoint, also from one that was saved within the first epoch.

    Args:
        runner (Runner): A runner that is about to train.

    Returns:
        bool: False where a checkpoint only gave the initial weights.
    """
    return bool(vars(runner).get("_is_resumed")) or runner.iter > 0
