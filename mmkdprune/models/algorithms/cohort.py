"""Networks that train together: what online distillation and mutual contrastive learning have in common."""

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any

from mmpretrain.models.necks import GlobalAveragePooling
from torch import Tensor, nn

from mmkdprune.randomness import isolated_random_state

from ..branches import find_stage_protocol, without_pretrained
from .base import DistillationClassifier
from .teacher import describe_network


class CohortClassifier(DistillationClassifier):
    """A classifier, the deployable peer 0, with other networks that train beside it under ``peers.1``, ``peers.2``, ...

    Attributes:
        peers (nn.ModuleDict): The networks other than peer 0, keyed by their number.
    """

    random_name = "cohort"  # names the private random streams
    peer_class: type[DistillationClassifier] = DistillationClassifier
    peers: nn.ModuleDict

    @property
    def needs_class_pairs(self) -> bool:
        """Whether images are compared with others of their class in the same batch."""
        return False

    @property
    def min_batch_size(self) -> int:
        """Two images where they are compared with each other; one otherwise."""
        return 2 if self.needs_class_pairs else 1

    def build_peers(self, configs: Sequence[dict[str, Any]]) -> None:
        """Build the networks other than peer 0 and compare all with each other.

        Random draws of the other networks stay apart, so that a seed gives peer 0 the plain twin's initial weights.

        Args:
            configs (Sequence[dict]): ``backbone, neck, head`` of each network, see
                :func:`mmkdprune.models.utils.peer_configs`.

        Raises:
            ValueError: If a network has other classes, or asks for what clashes with the algorithm.
        """
        self.peers = nn.ModuleDict()
        for index, config in enumerate(configs[1:], start=1):
            with isolated_random_state(f"{self.random_name}.peer{index}"):
                peer = self.peer_class(**config, init_cfg=copy.deepcopy(without_pretrained(self.init_cfg)))
            self.peers[str(index)] = peer
            peer.refuse_clashes()
            self._check_head(index, peer)
        self.require_equal("classes", [network.num_classes for network in self.networks()])

    def networks(self) -> Iterator[Any]:
        """Iterate over all networks, peer 0 (this model itself) first."""
        yield self
        yield from self.peers.values()

    def init_weights(self) -> None:
        """Initialise the weights of all networks."""
        super().init_weights()
        if not self.is_plain:
            self.init_peers()

    def init_peers(self) -> None:
        """Initialise the weights of the networks other than peer 0."""
        for index, peer in self.peers.items():
            with isolated_random_state(f"{self.random_name}.peer{index}.weights"):
                peer.init_weights()  # type: ignore[operator]

    def peer_accuracy(self, logits: Sequence[Tensor], target: Tensor, ensemble: bool = False) -> dict[str, Tensor]:
        """Score the networks other than peer 0, and all together.

        Args:
            logits (Sequence[Tensor]): Logits of all networks, (B, C) each.
            target (Tensor): Class indices, int64, (B,).
            ensemble (bool): Whether to score the mean of all networks' logits, too. Defaults to False.

        Returns:
            dict[str, Tensor]: ``peer{n}/top1`` and ``ensemble/top1``: 1 for a right answer and 0 for a wrong one, (B,).
        """
        scores = {f"peer{index}/top1": (rows.argmax(1) == target).float() for index, rows in enumerate(logits) if index}
        if ensemble:
            scores["ensemble/top1"] = ((sum(logits) / len(logits)).argmax(1) == target).float()  # type: ignore[union-attr]
        return scores

    def require_equal(self, what: str, numbers: Sequence[int]) -> None:
        """Refuse networks that differ in a number.

        Args:
            what (str): What is counted, for the message.
            numbers (Sequence[int]): One a network.

        Raises:
            ValueError: If they differ.
        """
        for index, (network, number) in enumerate(zip(self.networks(), numbers, strict=True)):
            if number != numbers[0]:
                raise ValueError(
                    f"{type(self).__name__}: peer 0 ({describe_network(self)}) has {numbers[0]} {what} and peer "
                    f"{index} ({describe_network(network)}) {number}: networks that learn from each other need the "
                    "same number."
                )

    def _check_head(self, index: int, network: Any) -> None:
        """A peer's backbone may be another one while its head was left to be that of peer 0."""
        wanted = getattr(network.head, "in_channels", None)
        if wanted is None or not isinstance(network.neck, GlobalAveragePooling):
            return
        given = None
        with contextlib.suppress(ValueError):  # a backbone whose stages are not found
            given = find_stage_protocol(network.backbone).out_channels(network.backbone)
        if given is not None and wanted != given:
            raise ValueError(
                f"{type(self).__name__}: the backbone of peer {index} ({describe_network(network)}) gives {given} "
                f"channels and its head takes {wanted}: set head=dict(..., in_channels={given}) in peers[{index - 1}]."
            )
