"""When MMEngine's own hooks act; for hooks that must be done by then."""

from mmengine.hooks import CheckpointHook, Hook, LoggerHook
from mmengine.runner import Runner


def saves_after_iter(hook: Hook, runner: Runner) -> bool:
    """Tell whether a hook saves a checkpoint after the current iteration.

    Args:
        hook (Hook): Any hook of the runner.
        runner (Runner): The runner.

    Returns:
        bool: The condition of ``CheckpointHook.after_train_iter``; False for other hooks.
    """
    if not isinstance(hook, CheckpointHook) or hook.by_epoch:
        return False
    due = hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
    return due or (hook.save_last and hook.is_last_train_iter(runner))


def logs_after_iter(hook: Hook, runner: Runner, batch_idx: int) -> bool:
    """Tell whether a hook logs the losses of the current iteration.

    Args:
        hook (Hook): Any hook of the runner.
        runner (Runner): The runner.
        batch_idx (int): Index of the batch, as hooks get it.

    Returns:
        bool: The condition of ``LoggerHook.after_train_iter``; False for other hooks.
    """
    if not isinstance(hook, LoggerHook):
        return False
    return hook.every_n_inner_iters(batch_idx, hook.interval) or hook.end_of_epoch(runner.train_dataloader, batch_idx)
