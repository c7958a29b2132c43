"""Train with the channels-last memory format."""

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmkdprune.engine.gradient_buckets import to_channels_last
from mmkdprune.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Store convolution weights channels-last, so that activations follow.

    On CPUs and on GPUs with tensor cores convolutions are faster in this format. The numbers agree up to rounding,
    a seed gives the same initial weights, and checkpoints do not differ. Teachers and averaged models are converted
    with the model.

    A runner whose config has the hook converts the model before it is wrapped in ``DistributedDataParallel``, which
    lays out buckets for the gradients as the weights lie in memory. Where the hook comes to a model that was wrapped
    earlier, the buckets are laid out anew.
    """

    priority = "VERY_HIGH"

    def before_run(self, runner: Runner) -> None:
        """Convert the model before weights are initialised or loaded, which both keep the format."""
        to_channels_last(runner.model)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook) and hasattr(hook, "ema_model"):  # made earlier, where a priority was changed
                to_channels_last(hook.ema_model)
