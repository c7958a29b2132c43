"""Evaluate a checkpoint: ``mmkdprune test``."""

import argparse
import os
from copy import deepcopy
from pathlib import Path

import mmengine
import torch
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import DumpResults
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmkdprune.commands.command_line import rank, readable_errors, set_launcher, set_work_dir
from mmkdprune.commands.console import OpenConsoleHook, short_start
from mmkdprune.commands.missing_data import explained_missing_data
from mmkdprune.commands.missing_images import check_images
from mmkdprune.compat.distributed import leave_finished_process
from mmkdprune.config.dataloaders import is_batched, set_dataloader_defaults
from mmkdprune.config.reading import read_config
from mmkdprune.engine.hooks.check_load_hook import CheckLoadHook
from mmkdprune.engine.speed import apply_speed
from mmkdprune.errors import UsageError


def load_config(args: argparse.Namespace) -> Config:
    """Read the config and merge the command line into it."""
    if "://" not in args.checkpoint and not Path(args.checkpoint).is_file():
        raise UsageError(f"there is no checkpoint {args.checkpoint}")
    config = read_config(args.config, args.cfg_options)
    if config.get("test_dataloader") is None:
        raise UsageError(f"{args.config} has no test_dataloader: there is nothing to test on")
    set_work_dir(config, args.config, args.work_dir)
    config.load_from, config.resume = args.checkpoint, False
    if args.amp:
        config.test_cfg.fp16 = True
    if args.show or args.show_dir is not None:
        if "visualization" not in config.get("default_hooks", {}):
            raise UsageError("--show needs default_hooks.visualization=dict(type='VisualizationHook') in the config")
        show_predictions(config, args)
    if args.tta:
        add_test_time_augmentation(config)
    apply_speed(config, training=False)
    set_dataloader_defaults(config, ["test_dataloader"], torch.cuda.is_available() and not args.no_pin_memory)
    return config


def show_predictions(config: Config, args: argparse.Namespace) -> None:
    """Draw predictions: the packages' hooks do the same under different names."""
    hook = config.default_hooks.visualization
    hook.update(show=args.show, wait_time=args.wait_time, interval=args.interval)
    scope = config.get("default_scope")
    if scope not in ("mmdet", "mmseg"):
        hook.update(enable=True, out_dir=args.show_dir)
        return
    hook.draw = True
    if args.show_dir is not None and scope == "mmdet":
        hook.test_out_dir = os.path.abspath(args.show_dir)  # the hook would take it as a folder in the work dir's log
    elif args.show_dir is not None:
        config.visualizer.save_dir = args.show_dir


def add_test_time_augmentation(config: Config) -> None:
    """Use the config's ``tta_model`` and ``tta_pipeline``, or average over the image and its mirror image."""
    if config.get("default_scope") in ("mmdet", "mmseg") and not ("tta_model" in config and "tta_pipeline" in config):
        raise UsageError("--tta needs tta_model and tta_pipeline in a config of MMDetection or MMSegmentation")
    config.setdefault("tta_model", {"type": "mmpretrain.AverageClsScoreTTA"})
    loader = config.test_dataloader
    if is_batched(loader.dataset):  # the same pipeline, image by image
        loader.dataset = loader.dataset.dataset
        loader.pop("collate_fn", None)
    owner = loader.dataset
    while "pipeline" not in owner and "dataset" in owner:
        owner = owner.dataset
    if "tta_pipeline" not in config:
        pipeline = deepcopy(owner.pipeline)
        flips = [{"type": "RandomFlip", "prob": 1.0}, {"type": "RandomFlip", "prob": 0.0}]
        config.tta_pipeline = [*pipeline[:-1], {"type": "TestTimeAug", "transforms": [flips, [pipeline[-1]]]}]
    config.model = ConfigDict(**config.tta_model, module=config.model)
    owner.pipeline = config.tta_pipeline


def run(args: argparse.Namespace) -> None:
    """Test; see :mod:`mmkdprune.cli.test`."""
    with readable_errors(args.debug), short_start(args.verbose) as console:
        with readable_errors(args.debug, building=True):
            config = load_config(args)
            set_launcher(config, args.launcher, args.local_rank)
            runner = Runner.from_cfg(config) if "runner_type" not in config else RUNNERS.build(config)
            with explained_missing_data(config, "test_dataloader"):
                loop = runner.test_loop
            if rank() == 0:
                check_images(loop.dataloader.dataset, "test_dataloader")
        runner.register_hook(CheckLoadHook())
        runner.register_hook(OpenConsoleHook(console))
        if args.out and args.out_item != "metrics":
            runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
        metrics = runner.test()
    if args.out and args.out_item == "metrics" and runner.rank == 0:
        mmengine.dump(metrics, args.out)
    leave_finished_process()
