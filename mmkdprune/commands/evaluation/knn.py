"""k-nearest-neighbour accuracy of frozen features: ``mmkdprune knn``."""

import argparse

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.evaluation import shared
from mmkdprune.commands.evaluation.data import read_data_config
from mmkdprune.commands.evaluation.report import make_entry
from mmkdprune.config.shipped import LINEAR
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.knn import knn_scores, topk_accuracy


def run(args: argparse.Namespace) -> None:
    """Evaluate; see :mod:`mmkdprune.cli.knn`."""
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
