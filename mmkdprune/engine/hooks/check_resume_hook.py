"""Refuse to continue a pruned run without its pruning."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdprune.engine.resume import ResumeError, is_resumed
from mmkdprune.registry import HOOKS

from .filter_pruning_hook import FilterPruningHook


@HOOKS.register_module()
class CheckResumeHook(Hook):
    """Refuse to resume a checkpoint with pruning state in a run without :class:`FilterPruningHook`.

    Every runner has one. Without the hook the zeros would be trained away without a word.
    """

    priority = "VERY_HIGH"

    def __init__(self) -> None:
        self._method: str | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember whether the checkpoint's run pruned."""
        pruning = (checkpoint.get("mmkdprune") or {}).get("pruning")
        self._method = None if pruning is None else str(pruning.get("method") or "a pruner of its own")

    def before_train(self, runner: Runner) -> None:
        """Refuse, where the checkpoint was resumed and not only loaded."""
        if (
            self._method is None
            or not is_resumed(runner)
            or any(isinstance(hook, FilterPruningHook) for hook in runner.hooks)
        ):
            return
        raise ResumeError(
            f"the checkpoint to resume was pruned while it trained ({self._method}), but this run has no "
            "FilterPruningHook, so its zeros would be trained away: keep custom_hooks=[dict(type="
            "'mmkdprune.FilterPruningHook', pruner=dict(...))] of the run that is resumed. To train on without "
            "pruning, start a new run from its weights: load_from=CHECKPOINT, resume=False, another work dir"
        )
