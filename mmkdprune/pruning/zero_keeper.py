"""Fine-tuning of a network that is pruned already."""

from collections.abc import Sequence

from torch import Tensor, nn

from mmkdprune.arguments import checked

from .filter_pruner import FilterPruner
from .schedules.position import Position
from .units import zero_filters


class ZeroKeeper(FilterPruner):
    """Keep the filters zero that are zero at the start, and prune no others.

    Without it, a pruned backbone that is trained on, in a detector say, gets constants for channels where a zero filter
    ends a residual branch: the shift of the BatchNorm behind it has a gradient (right before a ReLU it has none), and
    what is not zero cannot be removed exactly. Which method, rate and coupling made the zeros does not matter; every
    dense convolution is looked at, projection shortcuts included. From its construction on it is as a finished
    :class:`FilterPruner`: :meth:`enforce` zeros, :meth:`step` and :meth:`finalize` do no more.

    Args:
        model (nn.Module): The model, with the pruned weights in it.
        include, exclude, bn_policy, freeze, scope, example_input: See :class:`FilterPruner`. ``bn_policy='none'`` is
            for networks that were pruned with it: a zero filter's BatchNorm then still has a shift, which the others
            would zero.

    Raises:
        ValueError: If no filter is zero, or one is whose BatchNorm still has a shift.
    """

    @checked
    def __init__(
        self,
        model: nn.Module,
        include: str | Sequence[str] | None = None,
        exclude: str | Sequence[str] | None = None,
        bn_policy: str = "follow",
        freeze: str = "post_step",
        scope: str | None = None,
        example_input: Tensor | Sequence[int] | None = None,
    ) -> None:
        super().__init__(
            model,
            0.0,
            include=include,
            exclude=exclude,
            bn_policy=bn_policy,
            freeze=freeze,
            scope=scope,
            prune_downsample=True,
            example_input=example_input,
            prune_outputs=True,
        )
        zeros = [int(zero_filters(unit, self.network).sum()) for unit in self.units]
        filters = sum(unit.size for unit in self.units)
        if not any(zeros):
            raise ValueError(
                f"none of the {filters} filters in {self.scope or 'the model'} is zero, so there is nothing to keep: "
                "load the pruned weights (init_cfg of the backbone, or load_from), or prune with a method"
            )
        if bn_policy != "none":
            self._refuse_shifts()
        self.rate = sum(zeros) / filters
        for unit, number in zip(self.units, zeros, strict=True):
            unit.rate = number / unit.size
        self._prune(Position(self.rate, 0.0, 1.0), 0, 1, None, final=True)
        self.finalized = True

    def _select(self, position: Position, final: bool) -> list[tuple[Tensor, Tensor, int, int]]:
        masks = [zero_filters(unit, self.network) for unit in self.units]
        return [(mask, mask.clone(), int(mask.sum()), int(mask.sum())) for mask in masks]

    def _refuse_shifts(self) -> None:
        for unit in self.units:
            zero = zero_filters(unit, self.network)
            for slot, tensor in unit.tensors(self.network):
                if slot.is_norm and slot.attribute == "bias" and slot.covered(tensor, zero)[zero].any():
                    raise ValueError(
                        f"filters of {unit.name} are zero but their BatchNorm {slot.path} still has a shift, which "
                        f"bn_policy={self.bn_policy!r} would set to zero and so change the network: set "
                        "bn_policy='none', the policy that it was pruned with"
                    )
