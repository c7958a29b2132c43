"""Resume an epoch-based run where its epochs have another number of iterations, as with other processes.

MMEngine takes the number of iterations from the checkpoint, and with it schedules that were laid out for as many: of a
run that began in two processes and goes on in one, the learning rate would end half-way.
"""

import copy
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

from mmkdprune.compat.patching import patch

from .resume import ITERATIONS_PER_EPOCH, ResumeError

_SCHEDULED = ("lr", "initial_lr", "momentum", "initial_momentum", "betas")


def patch_resuming() -> None:
    """Lets counters and schedules of epoch-based runs follow the epoch at which they are resumed."""
    from mmengine.runner import Runner

    patch(Runner, "resume", _following_epochs)


def _following_epochs(original: Callable) -> Callable:
    def resume(
        self: Any, filename: str, resume_optimizer: bool = True, resume_param_scheduler: bool = True, **options: Any
    ) -> None:
        fresh = _Schedules.of(self) if resume_param_scheduler else None
        original(self, filename, resume_optimizer, resume_param_scheduler, **options)
        self._is_resumed = True
        _follow_epoch(self, fresh)

    return resume


class _Schedules(NamedTuple):
    """Schedulers as the config lays them out for this run, at their beginning."""

    states: list[tuple[Any, dict[str, Any]]]  # each scheduler, with its state
    groups: list[dict[str, Any]]  # what schedulers may change, by parameter group

    @classmethod
    def of(cls, runner: Any) -> "_Schedules":
        """Build optimizer and schedulers, unless that was done, and remember them."""
        runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
        if runner.param_schedulers is not None:
            runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)
        states = [(scheduler, copy.deepcopy(scheduler.state_dict())) for scheduler in _schedulers(runner)]
        groups = [{name: group[name] for name in _SCHEDULED if name in group} for group in _groups(runner)]
        return cls(states, groups)

    def replay(self, runner: Any, epochs: int, iterations: int) -> None:
        """Bring schedulers, and what they change, to where an uninterrupted run has them after some epochs.

        Args:
            runner (Runner): The run, whose optimizer may have been resumed.
            epochs (int): Epochs that are done.
            iterations (int): Iterations of each.
        """
        for group, values in zip(_groups(runner), self.groups, strict=True):
            group.update(values)
        for scheduler, state in self.states:
            scheduler.load_state_dict(copy.deepcopy(state))
        every_iteration = [scheduler for scheduler, _ in self.states if not scheduler.by_epoch]
        every_epoch = [scheduler for scheduler, _ in self.states if scheduler.by_epoch]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of schedulers that are stepped without the optimizer
            for _ in range(epochs):
                for _ in range(iterations):
                    for scheduler in every_iteration:
                        scheduler.step()
                for scheduler in every_epoch:
                    scheduler.step()


def _schedulers(runner: Any) -> list[Any]:
    schedulers = runner.param_schedulers or []
    lists = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
    return [scheduler for one in lists for scheduler in one]


def _groups(runner: Any) -> list[dict[str, Any]]:
    wrapper = runner.optim_wrapper
    wrappers = wrapper.values() if hasattr(wrapper, "optim_wrappers") else [wrapper]
    return [group for one in wrappers for group in one.optimizer.param_groups]


def _follow_epoch(runner: Any, fresh: _Schedules | None) -> None:
    from mmengine.runner import EpochBasedTrainLoop

    loop, saved = runner.train_loop, _saved(runner)
    before, processes = saved.get(ITERATIONS_PER_EPOCH), saved.get("world_size")
    if not isinstance(loop, EpochBasedTrainLoop):
        if processes not in (None, runner.world_size):
            runner.logger.warning(
                f"The checkpoint was saved by {processes} process(es) and this run has {runner.world_size}: max_iters, "
                "schedules and prune steps of an iteration-based run count iterations, each of which now has another "
                f"number of images. Multiply train_dataloader.batch_size by {processes} / {runner.world_size} to keep "
                "it."
            )
        return
    epoch, iteration, now = loop.epoch, loop.iter, len(loop.dataloader)
    if before is None and epoch and iteration % epoch == 0:  # a checkpoint without the number, saved after an epoch
        before = iteration // epoch
    if iteration == epoch * now and before in (None, now):
        return
    if before is None or iteration != epoch * before:
        runner.logger.warning(
            f"The checkpoint was saved within epoch {epoch + 1} (iteration {iteration}), and epoch-based "
            "training resumes at the border of an epoch: that epoch starts again, with all of its images."
        )
    if before not in (None, now):
        runner.logger.warning(
            f"An epoch of the run to resume had {before} iterations ({processes or 'unknown number of'} process(es)) "
            f"and has {now} here ({runner.world_size}): the run goes on at iteration {epoch * now}, with the learning "
            "rates that the config gives there."
        )
    if fresh is not None:
        _reschedule(runner, fresh, epoch, now, before)
    loop._iter = epoch * now


def _reschedule(runner: Any, fresh: _Schedules, epoch: int, now: int, before: int | None) -> None:
    is_scaled = (runner.auto_scale_lr or {}).get("enable", False)
    if not is_scaled and all(scheduler.by_epoch for scheduler, _ in fresh.states):
        return  # nothing of it counts iterations
    watching = [scheduler for scheduler, _ in fresh.states if getattr(scheduler, "need_val_args", False)]
    if watching:
        raise ResumeError(
            f"the checkpoint is of a run with {before or 'another number of'} iterations per epoch, this one has "
            f"{now}, and {type(watching[0]).__name__} depends on earlier validations, so that its learning rates "
            "cannot be computed anew: resume with as many processes as before, or set train_dataloader.batch_size so "
            "that an epoch has as many iterations"
        )
    fresh.replay(runner, epoch, now)


def _saved(runner: Any) -> dict[str, Any]:
    """What this package wrote into the checkpoint that was just loaded."""
    from .hooks import RandomStateHook

    return next((hook.loaded for hook in runner.hooks if isinstance(hook, RandomStateHook)), None) or {}
