"""What one process finds out for all: a measurement, which would differ from one to the other."""

from collections.abc import Callable
from typing import Any

from mmengine.dist import broadcast_object_list, get_rank, get_world_size


def from_first_process(make: Callable[[], Any]) -> Any:
    """Let the first process do something, and give all what it returns.

    Args:
        make (Callable): Without arguments; returns plain types. Only the first process calls it.

    Returns:
        Any: What it returned there.

    Raises:
        ValueError: In all processes, with the message of the first, if it fails there.
    """
    if get_world_size() == 1:
        return make()
    outcome: list[Any] = [None, ""]
    if get_rank() == 0:
        try:
            outcome = [make(), ""]
        except Exception as error:  # whatever it is: the others wait for an answer
            outcome = [None, f"{error}" or type(error).__name__]
    broadcast_object_list(outcome, src=0)
    result, failure = outcome
    if failure:
        raise ValueError(failure)
    return result
