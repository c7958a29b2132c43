"""Fill a network with the weights of a file: all of them, and nothing that is not a number."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from mmkdprune.checkpoint.finite import refuse_non_finite
from mmkdprune.checkpoint.keys import KeyReport, misfits, report_loaded_keys
from mmkdprune.errors import ExportError


def fill(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    owner: str = "its own config",
    what: str = "weights",
) -> KeyReport:
    """Fill a network, or refuse weights that are not exactly its own.

    Args:
        network (nn.Module): As built; changed in place.
        state (Mapping[str, Tensor]): Its weights, under its keys.
        source (str | Path): Their file, for messages.
        owner (str): Whose network it is, for the message. Defaults to ``'its own config'``.
        what (str): What is filled in, for the message. Defaults to ``'weights'``.

    Returns:
        KeyReport: Comparison of the keys.

    Raises:
        ExportError: Keys are missing, left over or of another shape.
        NonFiniteWeightsError: Weights are infinite or not a number.
    """
    report = check_fit(network, state, source, owner, what)
    network.load_state_dict(state, strict=False)  # counters of batches may be missing
    return report


def check_fit(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str | Path,
    owner: str = "its own config",
    what: str = "weights",
) -> KeyReport:
    """Refuse what :func:`fill` refuses, and leave the network as it is.

    Args:
        network (nn.Module): As for :func:`fill`.
        state (Mapping[str, Tensor]): Likewise.
        source (str | Path): Likewise.
        owner (str): Likewise.
        what (str): Likewise.

    Returns:
        KeyReport: Comparison of the keys.

    Raises:
        ExportError: Keys are missing, left over or of another shape.
        NonFiniteWeightsError: Weights are infinite or not a number.
    """
    report = report_loaded_keys(network.state_dict(), state)
    if misfits(report):
        raise ExportError(f"the {what} in {source} are not those of {owner}: {report.line()}")
    refuse_non_finite(state, source, network)
    return report
