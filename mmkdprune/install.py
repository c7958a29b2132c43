"""What ``import mmkdprune`` changes in a process: this list, and nothing else."""

from types import ModuleType


def install_with_mmengine() -> None:
    """Let the first import of MMEngine install everything, or do so now where it is imported already.

    ``import mmengine.…`` runs the package's own ``__init__`` first, so that the changes are there before any other of
    its modules, and before MMCV, MMPretrain, MMDetection and MMSegmentation, which all import it, are complete.
    """
    import wrapt  # a requirement, whose absence the check of the versions reports

    wrapt.register_post_import_hook(_install, "mmengine")


def _install(_: ModuleType) -> None:
    install()


def install() -> None:
    """Mends MMEngine in this process, and supplies MMCV's operators where it has none.

    Harmless when called again. The checkpoints that MMEngine then writes hold plain data only: they load and train on
    in a process without it, too.
    """
    # None of these imports MMEngine at its top: a module of this package that is the first to import it is never one
    # that is needed here, and half imported.
    from mmkdprune.checkpoint import atomic, keys, load_from, message_hub, mmengine_files, optimizer_state
    from mmkdprune.compat import deferred_detection, mmcv_ops, package_configs
    from mmkdprune.engine import compilation, resumed_epochs, runner, wrapping
    from mmkdprune.metadata import empty_dataset

    mmcv_ops.supply_operators()
    deferred_detection.defer_detection()
    package_configs.register_package()
    message_hub.patch_message_hub()
    mmengine_files.patch_unpickling()
    mmengine_files.patch_saving()
    mmengine_files.patch_loading()
    atomic.patch_local_backend()
    atomic.patch_checkpoint_hook()
    keys.patch_pretrained_init()
    load_from.patch_load_from()
    empty_dataset.patch_empty_dataset()
    runner.patch_runner_hooks()
    runner.patch_runner_config()
    optimizer_state.patch_loss_scaler()
    runner.patch_initialisation()
    optimizer_state.patch_optimizer_state()
    compilation.patch_compilation()
    wrapping.patch_wrapping()
    resumed_epochs.patch_resuming()
