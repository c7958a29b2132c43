"""Few-shot classification on frozen features: ``mmkdprune few-shot``."""

import argparse

import torch

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.evaluation import shared
from mmkdprune.commands.evaluation.data import read_data_config
from mmkdprune.commands.evaluation.report import make_entry
from mmkdprune.config.shipped import FEW_SHOT
from mmkdprune.errors import UsageError
from mmkdprune.evaluation.episodes import EpisodeShape
from mmkdprune.evaluation.few_shot import evaluate_few_shot


def run(args: argparse.Namespace) -> None:
    """Evaluate; see :mod:`mmkdprune.cli.few_shot`."""
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
                    test.features.to(shared.device_of(args)),
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
