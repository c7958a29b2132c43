"""Save and resume the random state, so that an interrupted run continues bit for bit as if it had not been."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from mmkdprune.engine.resume import ITERATIONS_PER_EPOCH, is_resumed
from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.randomness import PrivateRandom, get_global_state, set_global_state
from mmkdprune.registry import HOOKS

from .conditions import saves_after_iter


@dataclass(frozen=True)
class _Snapshot:
    """Random states of all ranks at one moment.

    Attributes:
        states: One a rank.
        iterations_done: Number of training iterations by then; -1 for none.
    """

    states: Sequence[dict[str, Any]] = ()
    iterations_done: int = -1


@HOOKS.register_module()
class RandomStateHook(Hook):
    """Save the random state of every rank in the checkpoint, restore it on resume, and keep validation out of it.

    Saved as ``checkpoint['mmkdprune']['random_state']``, one entry a rank: the global generators of Python, NumPy and
    PyTorch (and of the rank's CUDA device), every ``PrivateRandom`` that is an attribute of one of the model's
    modules, and the seeds of the training samplers (a run without a configured seed draws them).

    When states are taken. Only the main process saves, so all ranks hand in their state beforehand: after each
    training epoch, after an iteration at which a ``CheckpointHook`` saves, and before validation (for the best
    checkpoint). After validation the state is put back: the validation loader draws from the same stream, and a
    checkpoint that was written before validation would otherwise not continue like the run that wrote it.

    When states are put back. An epoch-based run: at the end of ``before_train``, so that what later hooks draw, they
    draw in the same place as in the first run. An iteration-based run: MMEngine skips the batches that were used by
    loading them again, which draws random numbers as well (augmentation in the main process), and no hook runs
    between the last of them and the first new one; the loop's iterator is wrapped until that point.

    Bit-exact with ``num_workers=0``, and with workers unless an epoch-based run keeps them (``persistent_workers``) or
    an iteration-based run skips batches without loading them (the forks of MMEngine do): a worker's state cannot be
    read, but MMEngine seeds new ones alike. An epoch-based run continues at the border of an
    epoch only. With several processes, a checkpoint holds rank 0's BatchNorm statistics: ``SyncBuffersHook`` makes the
    ranks agree on them.
    """

    # Just before CheckpointHook (VERY_LOW, 90), after everything that trains.
    priority = 89

    def __init__(self) -> None:
        self._training = False
        self._loaded: dict[str, Any] | None = None  # from a checkpoint, until training starts
        self._pending: dict[str, Any] | None = None  # this rank's state, until the batches that were used are skipped
        self._taken = _Snapshot()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember what the checkpoint holds; whether it is resumed or only initialises is known in before_train."""
        self._loaded = checkpoint.get("mmkdprune") or {}

    def before_train(self, runner: Runner) -> None:
        """Restore the state when a run is resumed."""
        self._training = True
        loaded, self._loaded = self._loaded, None
        if loaded is None or not is_resumed(runner):
            return
        states = loaded.get("random_state")
        if not states:
            runner.logger.info("The checkpoint holds no random state: the resumed run draws other numbers.")
            return
        loop, world_size = runner.train_loop, get_world_size()
        _resume_loader(loop, states[min(get_rank(), len(states) - 1)], runner)
        if len(states) != world_size:
            runner.logger.warning(
                f"The checkpoint holds the random state of {len(states)} process(es) and this run has {world_size}: "
                "the random state is not resumed, the run goes on with fresh streams."
            )
            return
        self._pending = states[get_rank()]
        if isinstance(loop, IterBasedTrainLoop):
            loop.dataloader_iterator = _SkippingIterator(loop.dataloader_iterator, loop.iter, self, runner)
        else:
            self.restore_pending(runner)

    def restore_pending(self, runner: Runner) -> None:
        """Put the resumed state in place, once."""
        if self._pending is None:
            return
        state, self._pending = self._pending, None
        if isinstance(getattr(runner.train_loop, "dataloader_iterator", None), _SkippingIterator):
            runner.train_loop.dataloader_iterator = runner.train_loop.dataloader_iterator.iterator
        missing = _set_state(runner.model, state)
        if missing:
            runner.logger.warning(f"The checkpoint holds no state of the private random streams {', '.join(missing)}.")
        runner.logger.info("Random state resumed.")

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Restore at the latest here, for a loop that does not skip the batches that were used."""
        self.restore_pending(runner)

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        """Take the state at the iterations at which a checkpoint is saved."""
        if any(saves_after_iter(hook, runner) for hook in runner.hooks):
            self._take(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Take the state of the epoch that ends."""
        self._take(runner, runner.iter)

    def before_val(self, runner: Runner) -> None:
        """Take the state to which the training goes back after validation."""
        if self._training and self._taken.iterations_done != runner.iter:
            self._take(runner, runner.iter)

    def after_val(self, runner: Runner) -> None:
        """Undo what validation drew."""
        if self._training:
            _set_state(runner.model, self._taken.states[get_rank()])

    def after_train(self, runner: Runner) -> None:
        """Leave later validation runs of the same process alone."""
        self._training = False

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put the states of all ranks into the checkpoint, and how many iterations an epoch has."""
        with contextlib.suppress(TypeError):  # a loader without a length
            checkpoint.setdefault("mmkdprune", {})[ITERATIONS_PER_EPOCH] = len(runner.train_dataloader)
        states = self._taken.states
        if self._taken.iterations_done != checkpoint["meta"].get("iter"):
            if get_world_size() > 1:  # only this process is here
                runner.logger.warning("A checkpoint is saved at an unforeseen moment: without random state.")
                return
            states = [_get_state(runner)]
        checkpoint.setdefault("mmkdprune", {}).update(random_state=states, world_size=len(states))

    @property
    def loaded(self) -> dict[str, Any] | None:
        """What this package wrote into the checkpoint that was loaded, from then on until training starts."""
        return self._loaded

    def _take(self, runner: Runner, iterations_done: int) -> None:
        self._taken = _Snapshot(all_gather_object(_get_state(runner)), iterations_done)


class _SkippingIterator:
    """Passes batches on and calls ``hook.restore_pending`` when the ones to skip are through."""

    def __init__(self, iterator: Any, skip: int, hook: RandomStateHook, runner: Runner) -> None:
        self.iterator, self.skip, self.hook, self.runner = iterator, skip, hook, runner

    def __iter__(self) -> "_SkippingIterator":
        return self

    def __next__(self) -> Any:
        batch = next(self.iterator)
        self.skip -= 1
        if self.skip == 0:
            self.hook.restore_pending(self.runner)
        return batch

    def skip_iter(self, number: int) -> None:
        """Skip batches without loading them, which the forks of MMEngine ask for.

        They make a new iterator for the batches to come, and that draws a random number, too.
        """
        self.iterator.skip_iter(number)
        self.iterator._ensure_iterator()
        self.hook.restore_pending(self.runner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.iterator, name)


def _private_streams(model: nn.Module) -> dict[str, PrivateRandom]:
    return {
        f"{path}.{name}".lstrip("."): value
        for path, module in unwrapped(model).named_modules()
        for name, value in vars(module).items()
        if isinstance(value, PrivateRandom)
    }


def _get_state(runner: Runner) -> dict[str, Any]:
    streams = {name: stream.state_dict() for name, stream in _private_streams(runner.model).items()}
    samplers = {name: int(part.seed) for name, part in _seeded_samplers(runner.train_dataloader).items()}
    return dict(get_global_state(), private=streams, samplers=samplers, workers=_worker_seed(runner.train_dataloader))


def _set_state(model: nn.Module, state: dict[str, Any]) -> list[str]:
    """Restores generators and private streams; returns the names of streams that the state does not hold."""
    set_global_state(state)
    streams = _private_streams(model)
    for name in streams.keys() & state["private"].keys():
        streams[name].load_state_dict(state["private"][name])
    return sorted(streams.keys() - state["private"].keys())


def _seeded_samplers(loader: DataLoader) -> dict[str, Any]:
    """The loader's samplers that have a seed of their own, by name."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    parts = {
        "sampler": getattr(loader, "sampler", None),
        "batch_sampler": batch_sampler,
        "batch_sampler.sampler": getattr(batch_sampler, "sampler", None),
    }
    return {name: part for name, part in parts.items() if isinstance(getattr(part, "seed", None), (int, np.integer))}


def _worker_seed(loader: DataLoader) -> int | None:
    """The seed from which MMEngine seeds the loader's workers."""
    return getattr(getattr(loader, "worker_init_fn", None), "keywords", {}).get("seed")


def _resume_loader(loop: Any, state: dict[str, Any], runner: Runner) -> None:
    """Gives samplers and workers the first run's seeds; they were built before the checkpoint was read."""
    loader, changed = loop.dataloader, False
    for name, sampler in _seeded_samplers(loader).items():
        seed = state["samplers"].get(name, int(sampler.seed))
        if seed != sampler.seed:
            runner.logger.info(f"Seed of the training {name}: {sampler.seed} -> {seed}, as in the checkpoint.")
            sampler.seed, changed = seed, True
            if hasattr(sampler, "_indices_of_rank"):  # InfiniteSampler keeps an iterator, which may have started
                sampler.indices = sampler._indices_of_rank()
    seed = state["workers"]
    if seed is not None and _worker_seed(loader) not in (None, seed):
        init = loader.worker_init_fn
        loader.worker_init_fn = partial(init.func, *init.args, **{**init.keywords, "seed": seed})
        changed = changed or loader.num_workers > 0
    if changed and isinstance(loop, IterBasedTrainLoop):
        loop.dataloader_iterator = type(loop.dataloader_iterator)(loader)  # workers have begun with the old seeds
