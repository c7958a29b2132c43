"""What ``import mmkdprune`` changes in a process: this list, and nothing else."""


def install() -> None:
    """Mends MMEngine in this process, and supplies MMCV's operators where it has none.

    Called once when :mod:`mmkdprune` is imported, harmless when called again. The checkpoints that MMEngine then writes
    hold plain data only: they load and train on in a process without it, too.
    """
    # Imported here, so that the check of the versions can say that MMEngine is missing.
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
