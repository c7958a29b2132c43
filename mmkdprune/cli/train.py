"""Train a model from a config.

    mmkdprune train mmkdprune::mixskd/mixskd_resnet20_1xb64-20e_digits-16px.py

Takes the flags of MMPretrain's own tool. Beyond it: a work dir that holds checkpoints is not trained over by accident,
Ctrl-C leaves the last checkpoint whole and names the command that resumes, mistakes in a config are one message,
``--dry-run`` finds them on one batch, and a terminal gets a short summary and a progress bar.
"""

import argparse

from .arguments import add_processes_argument, add_run_arguments, add_speed_argument, check_processes

HELP = "train a model from a config"
COUPLINGS = ("group", "independent")
RANKINGS = ("layer", "global")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("config", help="config file, or package::path of a config in an installed package")
    parser.add_argument("--work-dir", help="folder of logs and checkpoints (default: ./work_dirs/<config name>)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from this checkpoint, or without a value from the last one in the work dir",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew in a work dir with checkpoints; they are removed"
    )
    add_processes_argument(parser)
    parser.add_argument("--amp", action="store_true", help="train in automatic mixed precision (GPU only)")
    add_speed_argument(parser)
    parser.add_argument(
        "--prune", metavar="METHOD", help="prune filters while it trains: ghfp-asrfp, asrfp, sfp, hfp, fpgm, ..."
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--rate", type=float, help="with --prune: the share of filters to remove, such as 0.4")
    amount.add_argument(
        "--target-macs",
        type=float,
        metavar="SHARE",
        help="with --prune: the share of multiply-accumulates that the compact network is to have, such as 0.5",
    )
    amount.add_argument("--target-params", type=float, metavar="SHARE", help="with --prune: likewise of parameters")
    amount.add_argument(
        "--target-latency",
        type=float,
        metavar="SHARE",
        help="with --prune: likewise of the time for 32 images, measured here before training",
    )
    parser.add_argument(
        "--coupling",
        choices=COUPLINGS,
        help="with --prune: one mask for all layers whose outputs meet (group, the default), or one for each layer",
    )
    parser.add_argument(
        "--ranking",
        choices=RANKINGS,
        help="with --prune: compare the filters of each layer, so that all lose one share (layer, the default), or "
        "those of all layers (global)",
    )
    parser.add_argument("--no-validate", action="store_true", help="do not evaluate during training")
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by (actual batch size / auto_scale_lr.base_batch_size)",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="build everything, train and validate on one batch, report shapes, parameters, memory, time and what "
        "would be saved; nothing is written",
    )
    parser.add_argument("--tensorboard", action="store_true", help="write the log for TensorBoard, too")
    parser.add_argument("--verbose", action="store_true", help="show the whole log before training, not a summary")
    parser.add_argument("--no-progress", action="store_true", help="no progress bar on a terminal")
    parser.add_argument("--no-persistent-workers", action="store_true", help="end dataloader workers after each epoch")
    add_run_arguments(parser)


def check_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse what does not go together."""
    check_processes(parser, args)
    given = (args.rate, args.target_macs, args.target_params, args.target_latency, args.coupling, args.ranking)
    if args.prune is None and any(value is not None for value in given):
        parser.error(
            "--rate, --target-macs, --target-params, --target-latency, --coupling and --ranking are options of "
            "--prune METHOD"
        )
    if args.resume is not None and args.overwrite:
        parser.error("--resume continues the run in the work dir, --overwrite removes it: give one of them")


def run(args: argparse.Namespace) -> None:
    """Train, in one process or several."""
    if args.gpus > 1:
        from mmkdprune.commands.launch import start_again

        start_again("train", args)
    else:
        from mmkdprune.commands.train import run as train

        train(args)
