"""Few-shot classification on the frozen features of checkpoints.

    python tools/few_shot.py work_dirs/<run>/epoch_6.pth --data omniglot --ways 5 20 --shots 1 5 --out few_shot.json

Features are extracted once. In every episode some labelled images of classes that the network may never have seen are
the support; the nearest class mean and a logistic regression recognise other images of these classes. Prints mean and
95 % interval over the episodes.
"""

import argparse
import sys

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    sys.exit(f"error: {problem}; run `pip install -e .` in the clone of mmkdprune")

import torch

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.evaluation import shared
from mmkdprune.commands.evaluation.data import FEW_SHOT, read_data_config
from mmkdprune.commands.evaluation.report import make_entry
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.episodes import EpisodeShape
from mmkdprune.evaluation.few_shot import CLASSIFIERS, TRANSFORMS, evaluate_few_shot


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = shared.make_parser(__doc__, FEW_SHOT)
    shared.add_feature_arguments(parser)
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
    return parser.parse_args()


def main() -> None:
    """Evaluate; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        shared.check_out(args)
        shapes = [EpisodeShape(ways, shots, args.queries) for ways in args.ways for shots in args.shots]
        config = read_data_config(args.data, FEW_SHOT, args.cfg_options)
        if args.transform == "centred_l2" and config.get("train_dataloader") is None:
            raise UsageError("--transform centred_l2 subtracts the mean of train_dataloader, which the data lack")
        fields = ("test_dataloader", *(("train_dataloader",) if args.transform == "centred_l2" else ()))
        loaders = {field: shared.checked_loaders(config, [field], args)[field] for field in fields}
        entries = []
        for network in shared.evaluated_backbones(args):
            test = shared.compute_features(network, config, "test_dataloader", args, loaders)
            mean: torch.Tensor | None = None
            if args.transform == "centred_l2":
                mean = shared.compute_features(network, config, "train_dataloader", args, loaders).features.mean(0)
            metrics: dict[str, list[float]] = {}
            for shape in shapes:
                for result in evaluate_few_shot(
                    test.features.to(args.device),
                    test.labels,
                    shape,
                    args.classifiers,
                    args.episodes,
                    args.seed,
                    args.transform,
                    mean,
                    args.c,
                ):
                    name = f"{shape.num_ways}-way {shape.num_shots}-shot, {result.classifier.replace('_', ' ')}"
                    metrics[name] = [result.accuracy, result.interval]
                    if result.unconverged:
                        print(f"note: {name}: {result.unconverged} of {args.episodes} regressions did not converge")
            settings = {"episodes": args.episodes, "queries": args.queries, "episode_seed": args.seed}
            settings |= {"transform": args.transform, "C": args.c, "images": len(test.labels)}
            settings["classes"] = len(torch.unique(test.labels))
            entries.append(make_entry("few-shot", shared.data_name(args.data), network.describe(), metrics, **settings))
        print(
            f"accuracy on {args.episodes} episodes, {args.queries} queries a class; ± is the 95 % interval of the mean "
            "over episodes (with several runs of one name: the standard deviation over runs)"
        )
        shared.finish(args, entries)


if __name__ == "__main__":
    main()
