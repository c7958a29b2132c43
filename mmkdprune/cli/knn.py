"""k-nearest-neighbour accuracy of the frozen features of checkpoints.

mmkdprune knn work_dirs/<run>/epoch_20.pth --data digits-16px --k 20
"""

import argparse

from mmkdprune.config.shipped import LINEAR

from .arguments import add_evaluation_arguments, add_feature_arguments

HELP = "nearest-neighbour accuracy of frozen features"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_evaluation_arguments(parser, LINEAR)
    add_feature_arguments(parser)
    parser.add_argument("--k", type=int, nargs="+", default=[20], help="neighbours that vote (default: 20)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the votes; 0 counts all alike")


def run(args: argparse.Namespace) -> None:
    """Evaluate."""
    from mmkdprune.commands.evaluation.knn import run as knn

    knn(args)
