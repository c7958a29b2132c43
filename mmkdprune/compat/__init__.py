"""What makes the current OpenMMLab and PyTorch releases work together: checks and small, named patches.

Nothing here imports MMEngine before :func:`install` runs, so that :func:`check_versions` can say that it is missing.
"""

from .versions import check_versions


def install() -> None:
    """Mends MMEngine in this process, and supplies MMCV's operators where it has none.

    Called once when :mod:`mmkdprune` is imported, harmless when called again. The checkpoints that MMEngine then writes
    hold plain data only: they load and train on in a process without it, too.
    """
    from . import (
        atomic,
        checkpoint,
        compilation,
        deferred_detection,
        empty_dataset,
        load_from,
        message_hub,
        mmcv_ops,
        optimizer_state,
        pretrained,
        resume,
        runner,
        scale,
    )

    mmcv_ops.supply_operators()
    deferred_detection.defer_detection()
    runner.register_package()
    message_hub.patch_message_hub()
    checkpoint.patch_unpickling()
    checkpoint.patch_saving()
    checkpoint.patch_loading()
    atomic.patch_local_backend()
    atomic.patch_checkpoint_hook()
    pretrained.patch_pretrained_init()
    load_from.patch_load_from()
    empty_dataset.patch_empty_dataset()
    runner.patch_runner_hooks()
    runner.patch_runner_config()
    runner.patch_loss_scaler()
    runner.patch_initialisation()
    optimizer_state.patch_optimizer_state()
    compilation.patch_compilation()
    scale.patch_wrapping()
    resume.patch_resuming()


__all__ = ["check_versions", "install"]
