"""Few-shot classification on the frozen features of checkpoints.

    mmkdprune few-shot work_dirs/<run>/epoch_6.pth --data omniglot --ways 5 20 --shots 1 5 --out few_shot.json

Features are extracted once. In every episode some labelled images of classes that the network may never have seen are
the support; the nearest class mean and a logistic regression recognise other images of these classes. Prints mean and
95 % interval over the episodes.
"""

import argparse

from mmkdprune.config.shipped import FEW_SHOT

from .arguments import add_evaluation_arguments, add_feature_arguments

HELP = "few-shot classification on frozen features"
# Those of mmkdprune.evaluation.few_shot.
CLASSIFIERS = ("nearest_mean", "logistic_regression")
TRANSFORMS = ("none", "l2", "centred_l2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    add_evaluation_arguments(parser, FEW_SHOT)
    add_feature_arguments(parser)
    parser.add_argument("--ways", type=int, nargs="+", default=[5], help="classes of an episode (default: 5)")
    parser.add_argument("--shots", type=int, nargs="+", default=[1, 5], help="labelled images a class (default: 1 5)")
    parser.add_argument("--queries", type=int, default=15, help="images of a class to recognise (default: 15)")
    parser.add_argument("--episodes", type=int, default=600, help="number of episodes (default: 600)")
    parser.add_argument("--seed", type=int, default=0, help="of the episodes (default: 0)")
    parser.add_argument("--classifiers", nargs="+", choices=CLASSIFIERS, default=list(CLASSIFIERS))
    parser.add_argument(
        "--transform",
        choices=TRANSFORMS,
        default="l2",
        help="of the features: none, length 1, or the same after the mean of the data config's training set is "
        "subtracted (default: l2)",
    )
    parser.add_argument("--c", type=float, default=1.0, help="C of the logistic regression (default: 1)")


def run(args: argparse.Namespace) -> None:
    """Evaluate."""
    from mmkdprune.commands.evaluation.few_shot import run as few_shot

    few_shot(args)
