"""k-nearest-neighbour accuracy of the frozen features of checkpoints.

python tools/knn.py work_dirs/<run>/epoch_20.pth --data digits-16px --k 20
"""

import argparse
import sys

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    sys.exit(f"error: {problem}; run `pip install -e .` in the clone of mmkdprune")

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.evaluation import shared
from mmkdprune.commands.evaluation.data import LINEAR, read_data_config
from mmkdprune.commands.evaluation.report import make_entry
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.knn import knn_scores, topk_accuracy


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = shared.make_parser(__doc__, LINEAR)
    shared.add_feature_arguments(parser)
    parser.add_argument("--k", type=int, nargs="+", default=[20], help="neighbours that vote (default: 20)")
    parser.add_argument("--temperature", type=float, default=0.07, help="of the votes; 0 counts all alike")
    return parser.parse_args()


def main() -> None:
    """Evaluate; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        shared.check_out(args)
        if args.temperature < 0 or min(args.k) < 1:
            raise UsageError(f"--k must be positive and --temperature not negative, got {args.k}, {args.temperature}")
        config = read_data_config(args.data, LINEAR, args.cfg_options)
        fields = ("train_dataloader", "val_dataloader")
        loaders = shared.checked_loaders(config, fields, args)
        entries = []
        for network in shared.evaluated_backbones(args):
            train, test = (shared.compute_features(network, config, field, args, loaders) for field in fields)
            metrics = {}
            for number in args.k:
                scores = knn_scores(
                    train.features, train.labels, test.features, train.num_classes, number, args.temperature or None
                )
                metrics[f"k = {number}, top-1"] = topk_accuracy(scores, test.labels)
            settings = {"temperature": args.temperature, "train_images": len(train.labels), "images": len(test.labels)}
            entries.append(make_entry("k-NN", shared.data_name(args.data), network.describe(), metrics, **settings))
        shared.finish(args, entries)


if __name__ == "__main__":
    main()
