"""Keep the gradients of several processes right when parameters change after the model was wrapped."""

from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdprune.engine.gradient_buckets import follow_parameters, has_changed, require_same_parameters
from mmkdprune.registry import HOOKS


@HOOKS.register_module()
class GradientBucketsHook(Hook):
    """Lay out the buckets of ``DistributedDataParallel`` anew after other hooks have frozen or converted parameters.

    Every runner has one. The wrapper averages the gradients of those parameters over processes that were trained when
    it was built, as they lay in memory then. A hook that unfreezes a layer, adds one, or changes the memory format
    would otherwise train on gradients of a single process, or on permuted ones. Before the first iteration of every
    epoch it also makes sure that all processes train the same parameters.
    """

    # After all hooks that may change something.
    priority = "LOWEST"

    def __init__(self) -> None:
        self._is_new_epoch = True

    def before_train_epoch(self, runner: Runner) -> None:
        """Look at everything in the next iteration, when the model has been put into training mode."""
        self._is_new_epoch = True

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Lay out the buckets anew if the parameters have changed."""
        if not runner.distributed or not (self._is_new_epoch or has_changed(runner.model)):
            return
        names = follow_parameters(runner.model)
        if names:
            runner.logger.info(
                f"Gradient buckets are laid out anew: {len(names)} parameters were frozen, trained, added or converted "
                f"since the model was wrapped ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})."
            )
        if self._is_new_epoch:
            require_same_parameters(runner.model)
            self._is_new_epoch = False
