"""The engine: one prune step driven by three schedules, whatever is pruned and however it is ranked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmkdprune.arguments import checked

from .checks import check_choice, check_number, check_optimizers
from .gradient_masks import mask_gradients
from .gradient_record import GradientRecord
from .history import History, StepCounts
from .saved_state import check_masks, check_settings, check_state, load_masks, save_masks
from .schedules.hard_shares import ConstantHardShare
from .schedules.position import Position, ScheduleFunction, Schedules, describe
from .schedules.rates import ConstantDecay, ConstantRate
from .selection import find_scope
from .units import SETTLED, Unit, apply_masks, silent_filters, zero_hard, zero_optimizer_state

Agree = Callable[[list[tuple[str, Tensor, Tensor]]], None]
BN_POLICIES = ("follow", "scale", "hard_only", "none")
FREEZE_MODES = ("post_step", "grad")


class Pruner:
    """Base of the pruners: prunes what its subclass selects, along three schedules.

    The life cycle: :meth:`step` after every epoch (or every so many iterations), :meth:`enforce` after every optimizer
    step, :meth:`finalize` at the end.

    A prune step with pruning rate P, decay alpha and hard share lambda masks the floor(N P) least important filters of
    each unit; the floor(N P lambda) least important of these are hard (set to 0 and kept there), the others soft
    (multiplied by alpha, and free to come back). Source: the common form of HFP, SFP, ASFP, SRFP, ASRFP and GHFP
    (arXiv 2011.03170).

    Args:
        model (nn.Module): The model; changed in place by every step.
        rate (float): Target pruning rate P, the share of filters (weights) to remove, in [0, 1).
        rate_schedule (Callable): ``(t, total) -> P(t)``, ends at ``rate``. Defaults to ``ConstantRate(rate)``.
        decay_schedule (Callable): ``(t, total) -> alpha(t)``, ends at 0. Defaults to ``ConstantDecay()``: 0 throughout.
        hard_schedule (Callable): ``(t, total) -> lambda(t)``, ends at 1 or is 0 throughout. Defaults to the latter.
        bn_policy (str): What happens to scale and shift of the BatchNorm behind a pruned filter. ``'follow'``
            (default): both are treated like the filter. ``'scale'``: soft pruning multiplies the scale instead of the
            filter, which goes on learning, as the shift does until three quarters of the steps; hard filters, and all
            at :meth:`finalize`, lose all three. ``'hard_only'``: zeroed with hard filters, and with all at
            :meth:`finalize`; a soft filter then comes back at full strength with the first optimizer step, whatever
            the learning rate, and soft methods fail. ``'none'``: never touched (the SFP code); likewise, and pruned
            filters leave a constant behind.
        freeze (str): How hard filters stay at 0. ``'post_step'`` (default): zeroed again after every optimizer step,
            with the optimizer's state. ``'grad'``: only their gradients are zeroed, as in the authors' code; momentum
            moves them until the next step.
        sticky (bool): Hard filters stay hard. Defaults to True.
        scope (str | None): Name of the part of the model to prune. Defaults to ``backbone`` where there is one, else
            the whole model.

    Raises:
        ValueError: If an argument is out of range or the schedules do not end where they must.
    """

    units: list[Unit]
    items = "filters"  # what is counted, in log and report

    @checked
    def __init__(
        self,
        model: nn.Module,
        rate: float,
        rate_schedule: ScheduleFunction | None = None,
        decay_schedule: ScheduleFunction | None = None,
        hard_schedule: ScheduleFunction | None = None,
        bn_policy: str = "follow",
        freeze: str = "post_step",
        sticky: bool = True,
        scope: str | None = None,
    ) -> None:
        check_number("rate", rate, 0, 1, open_high=True)
        check_choice("bn_policy", bn_policy, BN_POLICIES)
        check_choice("freeze", freeze, FREEZE_MODES)
        self.rate = float(rate)
        self.schedules = Schedules(
            rate_schedule or ConstantRate(self.rate),
            decay_schedule or ConstantDecay(),
            hard_schedule or ConstantHardShare(0.0),
        )
        self.schedules.check(self.rate)
        self.bn_policy, self.freeze, self.sticky = bn_policy, freeze, sticky
        self.scope, self.network = find_scope(model, scope)
        self.position: Position | None = None
        self.finalized = False
        self.gradients: GradientRecord | None = None
        self._progress = 1.0
        self._mirrors: list[nn.Module] = []
        self._handles: list[Any] = []

    def _set_units(self, units: list[Unit]) -> None:
        """To be called at the end of a subclass's ``__init__``."""
        self.units = units
        self.history = History({unit.name: unit.size for unit in units})
        if self.freeze == "grad":
            self._handles += mask_gradients(units, self.network, self.bn_policy)

    @checked
    def step(self, t: int, total: int, agree: Agree | None = None) -> None:
        """Do the prune step after epoch (or prune step) ``t`` of ``total``; after :meth:`finalize` only zero again.

        Nothing is read back from the device.

        Args:
            t (int): 0-based index of what has just finished.
            total (int): Number of epochs (or prune steps).
            agree (Callable, optional): Called with (name, pruned, hard) of every unit before anything changes, to
                compare the masks of several processes.
        """
        if self.finalized:
            self._zero()
            return
        self._prune(Position(*(float(value) for value in self.schedules.at(t, total))), t, total, agree)

    def finalize(self, agree: Agree | None = None) -> None:
        """End pruning: the full rate, all of it hard and exactly 0, with its BatchNorms unless ``bn_policy='none'``.

        The masks are fixed from here on; :meth:`enforce` keeps them during fine-tuning. A second call only zeros again.
        """
        if self.finalized:
            self._zero()
            return
        self._prune(Position(self.rate, 0.0, 1.0), *self.history.times, agree, final=True)
        self.finalized = True

    @checked
    def enforce(self, optimizer: Optimizer | Iterable[Optimizer] | None = None) -> None:
        """Set hard filters to exactly 0 after an optimizer step, and their optimizer state with them.

        Args:
            optimizer (Optimizer | Iterable[Optimizer], optional): Whose state is zeroed. With ``freeze='grad'``
                nothing is done at all.
        """
        if self.freeze == "grad":
            return
        self._zero()
        optimizers = check_optimizers("optimizer", optimizer)
        for unit in self.units:
            if unit.hard_count:
                for one in optimizers:
                    zero_optimizer_state(unit, self.network, one, self.bn_policy)

    @property
    def masks(self) -> dict[str, Tensor]:
        """What is pruned, by layer name within the scope: bool, (out_channels,); True = pruned."""
        return {name: unit.pruned for unit in self.units for name in unit.members}

    @property
    def hard_masks(self) -> dict[str, Tensor]:
        """The part of :attr:`masks` that is hard."""
        return {name: unit.hard for unit in self.units for name in unit.members}

    @property
    def fully_pruned(self) -> bool:
        """Whether the last step masked the full rate with exact zeros, and hard ones where the method ends hard."""
        if not self.rate or self.finalized:
            return True
        # Under 'scale' a soft filter keeps its shift, a constant, until it is hard.
        exact = self.bn_policy != "scale" or self.schedules.hard_end == 1
        return exact and self.position == Position(self.rate, 0.0, self.schedules.hard_end)

    @property
    def frozen(self) -> bool:
        """Whether everything that is masked stays zero until the next step."""
        if self.freeze == "grad":  # momentum moves filters whose gradient is zero
            return False
        return self.finalized or (self.position is not None and self.position.hard_share == 1)

    @checked
    def attach_mirror(self, model: nn.Module) -> None:
        """Apply all masks to another copy of the model as well: the averaged one of an EMA.

        Args:
            model (nn.Module): A model with the same modules. Its weights take no part in the ranking.
        """
        self._mirrors.append(find_scope(model, self.scope)[1])

    @checked
    def attach_optimizer(self, *optimizers: Optimizer) -> None:
        """Let a criterion that ranks by gradients, ``'taylor'``, read them right before each step of the optimizer.

        Nothing happens with other criteria.

        Args:
            *optimizers (Optimizer): Those that train the model.
        """
        if self.gradients is not None:
            self._handles += [self.gradients.attach(self.network, optimizer) for optimizer in optimizers]

    def remove_gradient_hooks(self) -> None:
        """Take off the hooks of ``freeze='grad'`` and :meth:`attach_optimizer`; all can be copied and pickled then."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def report(self) -> dict[str, Any]:
        """Read back what the last step did; the only call that waits for the device.

        Returns:
            dict: ``t, total, rate, decay, hard_share`` of the last step and ``final``, whether it was
            :meth:`finalize`; over all units the numbers of ``filters``, of ``pruned`` (masked), ``hard`` and ``zero``
            ones, ``overlap`` (share of the mask of the step before that is masked again) and ``revived`` (share of the
            filters which that step left at zero that were not zero any more when this one began; each None where there
            were none); ``layers``: the same for every unit; and ``finalized``. {} before the first step.
        """
        entry = self.history.read()
        return {**entry, "finalized": self.finalized} if entry else {}

    def settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the first one, in plain types."""
        return {
            "type": type(self).__name__,
            "rate": self.rate,
            **{name: describe(value) for name, value in self.schedules._asdict().items()},
            "bn_policy": self.bn_policy,
            "freeze": self.freeze,
            "sticky": self.sticky,
            "scope": self.scope,
        }

    def state_dict(self) -> dict[str, Any]:
        """Settings, masks, position and history, in plain types and tensors."""
        return {
            "settings": self.settings(),
            "position": list(self.position) if self.position else None,
            "finalized": self.finalized,
            "units": save_masks(self.units),
            "history": self.history.state_dict(),
            **({"gradients": self.gradients.state_dict()} if self.gradients is not None else {}),
        }

    @checked
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where another pruner of the same settings was.

        Raises:
            ValueError: If a setting or the set of pruned layers differs; the message names it.
        """
        check_state(state)
        check_settings(state, self.settings())
        check_masks(state, self.units)
        load_masks(state, self.units)
        self.position = Position(*state["position"]) if state["position"] else None
        self.finalized = state["finalized"]
        self.history.load_state_dict(state["history"])
        if self.gradients is not None and "gradients" in state:
            self.gradients.load_state_dict(state["gradients"])

    @checked
    def counts(self, t: int, total: int) -> list[tuple[int, int]]:
        """Numbers of pruned and of hard filters that the schedules ask for after step ``t`` of ``total``.

        Returns:
            list[tuple[int, int]]: One pair a unit (one in all, where units are ranked together).
        """
        raise NotImplementedError

    def _select(self, position: Position, final: bool) -> list[tuple[Tensor, Tensor, int, int]]:
        """Return (pruned, hard, number of pruned, number of hard) for each unit; changes nothing."""
        raise NotImplementedError

    def _prune(self, position: Position, t: int, total: int, agree: Agree | None, final: bool = False) -> None:
        for unit in self.units:
            unit.follow_device(self.network)
            unit.gated = self.bn_policy == "scale" and bool(unit.gates(self.network))
        self._progress = (t + 1) / total
        if self.gradients is not None and self.rate:
            self.gradients.close()
        with torch.no_grad():
            selected = self._select(position, final)
        if agree is not None:
            agree([(unit.name, pruned, hard) for unit, (pruned, hard, *_) in zip(self.units, selected, strict=True)])
        # Whether the step before set soft filters to zero, too.
        counts = StepCounts(self.position is not None and self.position.decay == 0)
        for unit, (pruned, hard, pruned_count, hard_count) in zip(self.units, selected, strict=True):
            counts.before(unit, pruned, silent_filters(unit, self.network))
            unit.pruned, unit.hard = pruned, hard
            unit.pruned_count, unit.hard_count = pruned_count, hard_count
            for network in (self.network, *self._mirrors):
                apply_masks(unit, network, position.decay, self.bn_policy, self._progress >= SETTLED)
            counts.after(unit, silent_filters(unit, self.network))
        self.position = position
        self.history.add({"t": t, "total": total, **position._asdict(), "final": final}, counts)

    def _zero(self) -> None:
        for unit in self.units:
            if unit.hard_count:
                unit.follow_device(self.network)
                for network in (self.network, *self._mirrors):
                    zero_hard(unit, network, self.bn_policy)
