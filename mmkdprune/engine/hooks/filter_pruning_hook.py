"""Prune filters while a network trains."""

from typing import Any, NamedTuple

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdprune.arguments import checked
from mmkdprune.engine.pruning.builder import PrunerBuilder
from mmkdprune.engine.resume import is_resumed
from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.pruning import FilterPruner, Pruner, complexity, make_report, paper_flops, save_report
from mmkdprune.pruning.checks import check_count
from mmkdprune.registry import HOOKS

from ..pruning import collapse
from ..pruning.calendar import Calendar, make_calendar
from ..pruning.log import describe_run, log_limit, log_step
from ..pruning.recalibration import check_recalibration, recalibrate
from ..pruning.run import (
    agree_on_masks,
    averaged_models,
    evaluate,
    gate_best,
    image_shape,
    optimizers_of,
    padded_image_shape,
    refuse_sharded,
)

_SETTINGS = ("interval", "warmup", "finetune", "prune_at_start", "recalibrate_bn")


class _Started(NamedTuple):
    """What there is once model, data and loop of a run are known."""

    pruner: Pruner
    calendar: Calendar


@HOOKS.register_module()
class FilterPruningHook(Hook):
    """Prune the model of any run along the schedules of a published method.

    Add it to a config of MMPretrain, MMDetection or MMSegmentation, or of an algorithm of this package, whose
    deployable network is then pruned while it is distilled::

        custom_hooks = [dict(type='mmkdprune.FilterPruningHook', pruner=dict(method='ghfp-asrfp', rate=0.4))]

    A prune step follows every epoch (every ``interval`` iterations in an iteration-based run), before checkpoints are
    saved and the network is validated. Hard filters are zeroed again after every optimizer step, with the optimizer's
    memory of them, whatever the optimizer, gradient clipping, accumulation or mixed precision do; weights averaged by
    ``EMAHook`` get the same zeros. Masks and schedules are saved in ``checkpoint['mmkdprune']['pruning']``, so that a
    resumed run equals an uninterrupted one. ``save_best`` and early stopping only see the network once it is really
    pruned. At the end ``pruning_report.json`` and ``.png`` are written to the work dir.

    A network that is pruned already, a backbone in a detector say, keeps its zeros with
    ``pruner=dict(type='ZeroKeeper')``, see :class:`mmkdprune.pruning.ZeroKeeper`.

    Sources: see :func:`mmkdprune.pruning.make_pruner`.

    Args:
        pruner (dict): ``method`` and ``rate``, or ``type`` and arguments of a registered pruner; further keys are
            arguments of the pruner, see :class:`mmkdprune.pruning.FilterPruner`. In place of ``rate`` a ``target``:
            ``dict(macs=0.5)``, ``dict(params=0.5)`` or ``dict(latency=0.5, batch_size=32)``, the share of the pruned
            part that its compact form is to have, with ``coupling='group'`` and widths of multiples of ``round_to``, 8
            by default (:func:`mmkdprune.pruning.solve_budget`). What was found is in the checkpoints: a resumed run
            does not search or measure again.
        interval (int, optional): Epochs, or iterations of an iteration-based run, from one prune step to the next.
            Defaults to 1 epoch, or the iterations in which the training set is seen once.
        warmup (int): Epochs (iterations) without prune steps at the start. Defaults to 0.
        finetune (int): Epochs (iterations) at the end that train the finished network: everything masked stays zero.
            Soft methods lose accuracy at their last step, which this recovers. Defaults to 0, as in the papers.
        prune_at_start (bool): Prune before training, too, as the SFP code does. From random weights this freezes the
            filters before a ReLU that it picks. Defaults to False.
        recalibrate_bn (int): Training batches on which BatchNorm statistics are computed anew after a prune step.
            Defaults to 0.
        evaluate_finalize (bool): Validate right before the last prune step and after the end of pruning, and report
            both. Defaults to False.
        report (bool): Write the report. Defaults to True.

    Raises:
        ValueError: If an argument is out of range. What depends on the model (patterns, rates that leave a layer
            empty, sharded parameters) is checked before the first iteration.
    """

    # Between EMAHook (NORMAL, 50) and LoggerHook (BELOW_NORMAL, 60); checkpoints are saved at VERY_LOW (90).
    priority = 55

    @checked
    def __init__(
        self,
        pruner: dict,
        interval: int | None = None,
        warmup: int = 0,
        finetune: int = 0,
        prune_at_start: bool = False,
        recalibrate_bn: int = 0,
        evaluate_finalize: bool = False,
        report: bool = True,
    ) -> None:
        check_count("FilterPruningHook.interval", interval, 1, optional=True)
        for name, value in (("warmup", warmup), ("finetune", finetune), ("recalibrate_bn", recalibrate_bn)):
            check_count(f"FilterPruningHook.{name}", value, 0)
        self.builder = PrunerBuilder(pruner)
        self.interval, self.warmup, self.finetune = interval, warmup, finetune
        self.prune_at_start, self.recalibrate_bn = prune_at_start, recalibrate_bn
        self.evaluate_finalize, self.report = evaluate_finalize, report
        self.results: dict[str, Any] = {}
        self._started: _Started | None = None
        self._loaded: dict[str, Any] | None = None
        self._trained_since = True

    @property
    def pruner(self) -> Pruner:
        """The pruner of the run; there is none before ``before_train``."""
        return self._running().pruner

    @property
    def _calendar(self) -> Calendar:
        return self._running().calendar

    def _running(self) -> "_Started":
        if self._started is None:
            raise RuntimeError("FilterPruningHook: there is no pruner before training has started")
        return self._started

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember the state; whether the run is resumed is known in before_train."""
        self._loaded = (checkpoint.get("mmkdprune") or {}).get("pruning")

    def before_train(self, runner: Runner) -> None:
        """Build the pruner, when model, data and loop exist, and continue where a resumed run was."""
        refuse_sharded(runner)
        if self.recalibrate_bn:
            check_recalibration(runner)
        calendar = make_calendar(runner, self.interval, self.warmup, self.finetune)
        self._started = _Started(self._build(runner), calendar)
        for model in averaged_models(runner):
            self.pruner.attach_mirror(model)
        self.pruner.attach_optimizer(*optimizers_of(runner))
        gate_best(runner, self._is_pruned)
        describe_run(runner, self.pruner, self.builder, calendar.total)
        if not self.pruner.finalized:
            self._warn(runner, "bn_policy", collapse.soft_filters_before_norms(self.pruner))
        loaded, self._loaded = self._loaded, None
        if is_resumed(runner):
            self._resume(runner, loaded)
        elif self.prune_at_start:
            runner.logger.info("Pruning before training (prune_at_start):")
            self.pruner.step(0, self._calendar.total, agree_on_masks)
            log_step(runner, self.pruner, 0, 0)

    def _build(self, runner: Runner) -> Pruner:
        model = unwrapped(runner.model)
        if is_resumed(runner):
            return self.builder(model, (self._loaded or {}).get("budget"))
        return self.builder(model, image=padded_image_shape(runner) if self.builder.needs_image else None)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Keep hard filters at zero; prune, in an iteration-based run."""
        self._trained_since = True
        if "image_shape" not in self.results:
            self.results["image_shape"] = image_shape(data_batch)
        self.pruner.enforce(optimizers_of(runner))
        if not self._calendar.by_epoch:
            self._prune_if_due(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Prune, in an epoch-based run; the other kind comes here once, at its end."""
        if self._calendar.by_epoch:
            self._prune_if_due(runner, runner.epoch + 1)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save masks, position, history and settings."""
        if self._started is not None:
            state = {"method": self.builder.method, "hook": self._settings(), "results": self.results}
            if self.builder.budget is not None:
                state["budget"] = self.builder.budget.state_dict()
            checkpoint.setdefault("mmkdprune", {})["pruning"] = {**self.pruner.state_dict(), **state}

    def after_train(self, runner: Runner) -> None:
        """Write the report."""
        self.pruner.remove_gradient_hooks()
        if not self.pruner.finalized:
            state = "not pruned to its end"
            if self.pruner.fully_pruned and self.pruner.frozen:
                state = "pruned, but the masks in its last checkpoint are not marked as final"
            runner.logger.warning(
                f"FilterPruningHook: training ended before the last prune step; the network is {state}."
            )
        self._write_report(runner)

    def _prune_if_due(self, runner: Runner, done: int) -> None:
        if self.pruner.finalized:  # fine-tuning, also of a finished run that was made longer
            if not self.pruner.frozen:  # with freeze='grad' momentum has moved what was zero
                self.pruner.finalize()
            return
        t = self._calendar.due(done)
        if t is None:
            return
        last = done == self._calendar.end
        if last:
            self._evaluate(runner, "before_finalize")
        self.pruner.step(t, self._calendar.total, agree_on_masks)
        entry = log_step(runner, self.pruner, t, done)
        self._warn(runner, "masks", collapse.masks_that_jump(entry, self.pruner.rate))
        if last:
            self.pruner.finalize(agree_on_masks)
        self.pruner.enforce(optimizers_of(runner))
        if self.recalibrate_bn:
            models = [unwrapped(runner.model), *averaged_models(runner)]
            recalibrate(runner, models, self.recalibrate_bn, seed=t)
        self._trained_since = False
        if last:
            zero = self.pruner.report()["zero"]
            runner.logger.info(f"Pruning is finished: {zero} {self.pruner.items} stay zero from here on.")
            log_limit(runner, self.pruner)
            self._evaluate(runner, "after_finalize")
            metrics = [self.results.get(name, {}) for name in ("before_finalize", "after_finalize")]
            self._warn(runner, "accuracy", collapse.accuracy_lost(*metrics))

    def _is_pruned(self) -> bool:
        """Whether the network that is being validated has all its zeros."""
        return self.pruner.fully_pruned and (self.pruner.frozen or not self._trained_since)

    def _evaluate(self, runner: Runner, name: str) -> None:
        if self.evaluate_finalize and runner.val_loop is not None:
            model = next(iter(averaged_models(runner)), unwrapped(runner.model))
            self.results[name] = evaluate(runner, model)
            runner.logger.info(f"Pruning, {name.replace('_', ' ')}: {self.results[name]}")

    def _warn(self, runner: Runner, kind: str, message: str) -> None:
        """Warn once of each kind of sign that the run collapses, in the log and in the report."""
        warnings = self.results.setdefault("warnings", {})
        if message and kind not in warnings:
            warnings[kind] = message
            runner.logger.warning(f"FilterPruningHook: {message}.")

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in _SETTINGS}

    def _resume(self, runner: Runner, loaded: dict[str, Any] | None) -> None:
        if loaded is None:
            runner.logger.warning(
                "FilterPruningHook: the checkpoint to resume holds no pruning state; its network is pruned from now on."
            )
            return
        for name, value in self._settings().items():
            if loaded["hook"].get(name) != value:
                raise ValueError(
                    f"FilterPruningHook.{name} is {value!r} here but was {loaded['hook'].get(name)!r} in the run to "
                    "resume: set it back, or start a new run from its weights (load_from without resume)"
                )
        self.pruner.load_state_dict(loaded)
        self.results = dict(loaded["results"])
        entry = self.pruner.report()
        if self.pruner.finalized:
            runner.logger.info(
                "Pruning was finished in the run that is resumed: its zeros stay, nothing more is pruned."
            )
        elif entry and entry["total"] != self._calendar.total:
            runner.logger.warning(
                f"FilterPruningHook: the schedules were laid out for {entry['total']} steps and continue with "
                f"{self._calendar.total}."
            )

    def _count(self, runner: Runner, shape: tuple[int, ...]) -> None:
        part = {"part": self.pruner.scope or "the model"}  # what the hook prunes: train-only parts do not count
        self.results["complexity"] = part | complexity(self.pruner.network, shape, rounds=3)
        # the papers' formula is for one rate in all layers
        if isinstance(self.pruner, FilterPruner) and self.pruner.ranking == "layer":
            pruner, model = self.pruner, unwrapped(runner.model)
            selection = {name: getattr(pruner.selection, name) for name in pruner.selection.__dataclass_fields__}
            self.results["paper_flops"] = paper_flops(model, pruner.rate, shape, pruner.scope, **selection)

    @master_only
    def _write_report(self, runner: Runner) -> None:
        if not self.report:
            return
        shape = self.results.get("image_shape")
        if shape is not None:
            try:
                self._count(runner, shape)
            except Exception as error:  # the run is over and saved; counting must not make it fail
                runner.logger.warning(f"Pruning report: no complexity for images of {shape}: {error}")
        report = make_report(self.pruner, method=self.builder.method, **self.results)
        files = save_report(report, runner.work_dir)
        runner.logger.info(f"Pruning report: {', '.join(map(str, files))}")
