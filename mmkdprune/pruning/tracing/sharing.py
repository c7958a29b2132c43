"""Convolutions that need one mask because a layer behind them is one and the same."""

from __future__ import annotations

from .layer_record import Trace


def sharing_layers(trace: Trace, skipped: dict[str, str]) -> dict[str, set[str]]:
    """Convolutions that need one mask since a BatchNorm or depthwise convolution behind them is one and the same.

    Those that share one with channels that have no mask of their own are added to the skipped ones.
    """
    sharing: dict[str, set[str]] = {}
    for layer, visits in trace.visits.items():
        sizes = {tuple(node.size for node in visit.nodes) if visit is not None else None for visit in visits}
        columns = zip(*(visit.nodes for visit in visits if visit is not None), strict=len(sizes) == 1)
        for column in columns if len(visits) > 1 else ():
            sources = frozenset().union(*(node.sources for node in column))
            together = set().union(sources, *(sharing.get(source, ()) for source in sources))
            for source in together:
                sharing[source] = together
            alone = len(sizes) == 1 and None not in sizes and all(len(node.sources) == 1 for node in column)
            if not alone:
                for source in sources:
                    skipped.setdefault(
                        source, f"{layer} behind it is also used on channels without a mask of their own"
                    )
    for source, together in sharing.items():
        if left_out := next((other for other in together if other in skipped), None):
            skipped.setdefault(source, f"shares a layer with {left_out}, which is left out ({skipped[left_out]})")
    return sharing
