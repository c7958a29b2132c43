"""Linear evaluation of the frozen backbones of checkpoints, in one of two ways.

    python tools/linear_probe.py work_dirs/<run>/epoch_240.pth --data stl10-32px
    python tools/linear_probe.py work_dirs/<run>/epoch_240.pth --data stl10-32px --fast

As the papers do it: MMPretrain's linear head is trained on augmented images with the schedule of the data's config
(configs/linear_eval). With --fast: every image goes through the backbone once, without augmentation, and a linear
classifier is fitted to these features (by SGD, or by scikit-learn's logistic regression). Minutes instead of hours, and
another figure; the output says which of the two it is.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    sys.exit(f"error: {problem}; run `pip install -e .` in the clone of mmkdprune")

import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.evaluation import shared
from mmkdprune.commands.evaluation.data import LINEAR, read_data_config
from mmkdprune.commands.evaluation.probe import complete_probe_config
from mmkdprune.commands.evaluation.report import make_entry
from mmkdprune.commands.missing_data import explained_missing_data
from mmkdprune.commands.run_lock import RunLock
from mmkdprune.commands.run_log import read_accuracies
from mmkdprune.commands.work_dir import find_checkpoints, find_resumable, remove_checkpoints, set_logs_aside
from mmkdprune.config.dataloaders import set_dataloader_defaults
from mmkdprune.deploy.backbone import EvaluatedBackbone
from mmkdprune.engine.speed import apply_speed, use_default_speed
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.linear import SOLVERS, fit_linear

TRAINED = "linear probe, trained on augmented images"
FITTED = "linear probe, fitted to features extracted once"


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = shared.make_parser(__doc__, LINEAR)
    shared.add_feature_arguments(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the head's training (default: 0)")
    parser.add_argument("--fast", action="store_true", help="fit to features that are extracted once")
    fast = parser.add_argument_group("with --fast")
    fast.add_argument("--solver", choices=SOLVERS, default="sgd", help="default: sgd")
    fast.add_argument("--epochs", type=int, default=100, help="of sgd (default: 100)")
    fast.add_argument("--lr", type=float, default=0.1, help="of sgd (default: 0.1)")
    fast.add_argument("--batch-size", type=int, default=256, help="of sgd (default: 256)")
    fast.add_argument("--c", type=float, default=1.0, help="C of the logistic regression (default: 1)")
    slow = parser.add_argument_group("without --fast")
    slow.add_argument("--work-dir", type=Path, help="folder of the run (default: ./work_dirs/linear_<data>/<run>)")
    slow.add_argument("--resume", action="store_true", help="continue from the last checkpoint in the work dir")
    slow.add_argument("--speed", action="store_true", help="turn on the switches of mmkdprune::_base_/speed.py")
    return parser.parse_args()


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
    if args.speed:
        use_default_speed(config)
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


def main() -> None:
    """Evaluate; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        shared.check_out(args)
        if args.work_dir is not None and len(args.checkpoints) > 1:
            raise UsageError("--work-dir is the folder of one run: give one checkpoint, or no --work-dir")
        config = read_data_config(args.data, LINEAR, args.cfg_options)
        evaluate = fit if args.fast else train
        entries = [evaluate(args, config, network) for network in shared.evaluated_backbones(args)]
        print(entries[0]["evaluation"])
        shared.finish(args, entries)


if __name__ == "__main__":
    main()
