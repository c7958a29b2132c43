"""k-nearest-neighbour accuracy of the frozen features of checkpoints.

python tools/knn.py work_dirs/<run>/epoch_20.pth --data digits-16px --k 20
"""

import argparse
import sys

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    sys.exit(f"error: {problem}; run `pip install -e .` in the clone of mmkdprune")

from mmkdprune.evaluation import command
from mmkdprune.evaluation.data import LINEAR, read_data_config
from mmkdprune.evaluation.knn import knn_scores, topk_accuracy
from mmkdprune.evaluation.report import make_entry
from mmkdprune.utils.command_line import UsageError, readable_errors


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = command.make_parser(__doc__, LINEAR)
    command.add_feature_arguments(parser)
    parser.add_argument("--k", type=int, nargs="+", default=[20], help="neighbours that vote (default: 20)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the votes; 0 counts all alike")
    return parser.parse_args()


def main() -> None:
    """Evaluate; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        command.check_out(args)
        if args.temperature < 0 or min(args.k) < 1:
            raise UsageError(f"--k must be positive and --temperature not negative, got {args.k}, {args.temperature}")
        config = read_data_config(args.data, LINEAR, args.cfg_options)
        fields = ("train_dataloader", "val_dataloader")
        loaders = command.checked_loaders(config, fields, args)
        entries = []
        for network in command.evaluated_backbones(args):
            train, test = (command.compute_features(network, config, field, args, loaders) for field in fields)
            metrics = {}
            for number in args.k:
                scores = knn_scores(
                    train.features, train.labels, test.features, train.num_classes, number, args.temperature or None
                )
                metrics[f"k = {number}, top-1"] = topk_accuracy(scores, test.labels)
            settings = {"temperature": args.temperature, "train_images": len(train.labels), "images": len(test.labels)}
            entries.append(make_entry("k-NN", command.data_name(args.data), network.describe(), metrics, **settings))
        command.finish(args, entries)


if __name__ == "__main__":
    main()
