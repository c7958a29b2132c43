"""Linear evaluation of frozen backbones: ``mmkdprune linear-probe``."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.evaluation import shared
from mmkdprune.commands.evaluation.data import read_data_config
from mmkdprune.commands.evaluation.probe import complete_probe_config
from mmkdprune.commands.evaluation.report import make_entry
from mmkdprune.commands.missing_data import explained_missing_data
from mmkdprune.commands.run_lock import RunLock
from mmkdprune.commands.run_log import read_accuracies
from mmkdprune.commands.work_dir import find_checkpoints, find_resumable, remove_checkpoints, set_logs_aside
from mmkdprune.config.dataloaders import set_dataloader_defaults
from mmkdprune.config.shipped import LINEAR
from mmkdprune.deploy.backbone import EvaluatedBackbone
from mmkdprune.engine.speed import apply_speed, choose_speed
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.linear import fit_linear

TRAINED = "linear probe, trained on augmented images"
FITTED = "linear probe, fitted to features extracted once"


def fit(args: argparse.Namespace, config: Config, network: EvaluatedBackbone) -> dict[str, Any]:
    """Fit a linear classifier to features that are extracted once."""
    fields = ("train_dataloader", "val_dataloader")
    loaders = shared.checked_loaders(config, fields, args)
    train, test = (shared.compute_features(network, config, field, args, loaders) for field in fields)
    if args.allow_other_classes:
        test = replace(test, classes=None)
    settings = {"epochs": args.epochs, "lr": args.lr, "batch_size": args.batch_size}
    if args.solver == "logistic_regression":
        settings = {"C": args.c}
    result = fit_linear(train, test, args.solver, args.seed, **settings)
    metrics = {"top-1": result.top1}
    images = {"train_images": len(train.labels), "images": len(test.labels)}
    settings = {**images, "probe_seed": args.seed, "train_top1": round(result.train_top1, 4), **result.settings}
    name = f"{FITTED} ({args.solver.replace('_', ' ')})"
    return make_entry(name, shared.data_name(args.data), network.describe(), metrics, **settings)


def train(args: argparse.Namespace, data: Config, network: EvaluatedBackbone) -> dict[str, Any]:
    """Train MMPretrain's linear head on the frozen backbone."""
    name = network.meta.get("run") or network.backbone.__class__.__name__
    run = name if network.weights != "random" else f"{name}_random{network.meta['seed']}"
    work_dir = args.work_dir or Path("work_dirs") / f"linear_{shared.data_name(args.data)}" / run
    with RunLock(work_dir):
        return train_in(work_dir, args, data, network)


def train_in(work_dir: Path, args: argparse.Namespace, data: Config, network: EvaluatedBackbone) -> dict[str, Any]:
    """Train the head in a work dir."""
    latest = choose_start(work_dir, args.resume, args.overwrite)
    shared.checked_loaders(data, ("train_dataloader", "val_dataloader"), args)
    preprocessor = shared.preprocessor_settings(data, network, args.normalisation)
    config = complete_probe_config(data, network, preprocessor, work_dir)
    config.work_dir, config.experiment_name = str(work_dir), work_dir.name
    if args.allow_other_classes:
        accepting = {"type": "mmkdprune.CheckClassesHook", "allow_other_classes": True}
        config.custom_hooks = [*(config.get("custom_hooks") or []), accepting]
    config.randomness = {**(config.get("randomness") or {}), "seed": args.seed}
    if latest is not None:
        config.load_from, config.resume = str(latest), True
    choose_speed(config, args.speed)
    lines = apply_speed(config)
    set_dataloader_defaults(config, ("train_dataloader", "val_dataloader"), torch.cuda.is_available(), True)
    config.test_dataloader = config.test_cfg = config.test_evaluator = None
    runner = Runner.from_cfg(config)
    for field, loop in (("train_dataloader", "train_loop"), ("val_dataloader", "val_loop")):
        with explained_missing_data(config, field):
            getattr(runner, loop)
    for line in lines:
        runner.logger.info(line)
    runner.train()
    accuracies = read_accuracies(work_dir)
    last, best = max(accuracies), max(accuracies, key=lambda epoch: accuracies[epoch])
    metrics = {"last epoch, top-1": accuracies[last], "best epoch, top-1": accuracies[best]}
    optimizer = {key: value for key, value in config.optim_wrapper.optimizer.items() if not isinstance(value, dict)}
    settings = {"epochs": last, "best_epoch": best, "probe_seed": args.seed, "optimizer": optimizer}
    settings["batch_size"] = config.train_dataloader.batch_size
    return make_entry(TRAINED, shared.data_name(args.data), network.describe(), metrics, **settings)


def choose_start(work_dir: Path, resume: bool, overwrite: bool) -> Path | None:
    """The checkpoint to continue from, or None; refuse to train over another run."""
    found = find_checkpoints(work_dir)
    if resume:
        return find_resumable(work_dir, tell=lambda text: print(f"--resume: {text}", flush=True))
    if found and not overwrite:
        raise UsageError(
            f"the work dir {work_dir} already holds checkpoints ({len(found)}, newest {found[-1].name}): add --resume, "
            "--overwrite, or another --work-dir"
        )
    remove_checkpoints(work_dir)
    set_logs_aside(work_dir, keep="")
    return None


def run(args: argparse.Namespace) -> None:
    """Evaluate; see :mod:`mmkdprune.cli.linear_probe`."""
    with readable_errors(args.debug, building=True):
        shared.check_out(args)
        if args.work_dir is not None and len(args.checkpoints) > 1:
            raise UsageError("--work-dir is the folder of one run: give one checkpoint, or no --work-dir")
        config = read_data_config(args.data, LINEAR, args.cfg_options)
        evaluate = fit if args.fast else train
        entries = [evaluate(args, config, network) for network in shared.evaluated_backbones(args)]
        print(entries[0]["evaluation"])
        shared.finish(args, entries)
