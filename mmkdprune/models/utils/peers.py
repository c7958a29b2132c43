"""Which networks train together: read from a config by the algorithms, and by the export of one of them."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from mmkdprune.checkpoint.keys import NETWORK_FIELDS

DEFAULT_NUM_PEERS = 2


def peer_configs(
    network: Mapping[str, Any],
    num_peers: int | None = None,
    peers: Sequence[Mapping[str, Any]] | None = None,
    minimum: int = 2,
) -> list[dict[str, Any]]:
    """List the configs of all networks of a cohort, the deployable one (peer 0) first.

    Args:
        network (Mapping[str, Any]): ``backbone, neck, head`` of peer 0; other keys are left out.
        num_peers (int, optional): Number of networks in total. Without ``peers`` all are like peer 0. Defaults to 2, or
            to what ``peers`` says.
        peers (Sequence[Mapping[str, Any]], optional): The networks other than peer 0; a field that one does not have is
            that of peer 0.
        minimum (int): How many networks the method needs. Defaults to 2.

    Returns:
        list[dict[str, Any]]: ``backbone``, ``neck`` and ``head`` of each network.

    Raises:
        ValueError: If that makes fewer networks than the method needs, the two arguments disagree, or a field is
            unknown.
    """
    first = {name: network[name] for name in NETWORK_FIELDS if network.get(name) is not None}
    if peers is None:
        number = DEFAULT_NUM_PEERS if num_peers is None else num_peers
        if not isinstance(number, int) or isinstance(number, bool) or number < minimum:
            raise ValueError(f"num_peers must be {minimum} or more networks in total, got {number!r}.")
        return [copy.deepcopy(first) for _ in range(number)]
    if not isinstance(peers, Sequence) or len(peers) < 1:
        raise ValueError(f"peers must list at least one network beside the deployable one, got {peers!r}.")
    if num_peers is not None and num_peers != len(peers) + 1:
        raise ValueError(
            f"num_peers={num_peers} counts the deployable network, too, but peers lists {len(peers)} others: leave "
            "num_peers out."
        )
    for index, peer in enumerate(peers, start=1):
        if not isinstance(peer, Mapping) or set(peer) - set(NETWORK_FIELDS):
            raise ValueError(f"peer {index} must be a dict of {', '.join(NETWORK_FIELDS)}, got {peer!r}.")
    return [copy.deepcopy({**first, **peer}) for peer in ({}, *peers)]
