"""Linear evaluation of the frozen backbones of checkpoints, in one of two ways.

    mmkdprune linear-probe work_dirs/<run>/epoch_240.pth --data stl10-32px
    mmkdprune linear-probe work_dirs/<run>/epoch_240.pth --data stl10-32px --fast

As the papers do it: MMPretrain's linear head is trained on augmented images with the schedule of the data's config
(configs/linear_eval). With --fast: every image goes through the backbone once, without augmentation, and a linear
classifier is fitted to these features (by SGD, or by scikit-learn's logistic regression). Minutes instead of hours, and
another figure; the output says which of the two it is.
"""

import argparse
from pathlib import Path

from mmkdprune.config.shipped import LINEAR

from .arguments import add_evaluation_arguments, add_feature_arguments, add_speed_argument

HELP = "train or fit a linear classifier on frozen features"
SOLVERS = ("sgd", "logistic_regression")  # those of mmkdprune.evaluation.linear


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_evaluation_arguments(parser, LINEAR)
    add_feature_arguments(parser)
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
    add_speed_argument(slow)


def run(args: argparse.Namespace) -> None:
    """Evaluate."""
    from mmkdprune.commands.evaluation.linear_probe import run as linear_probe

    linear_probe(args)
