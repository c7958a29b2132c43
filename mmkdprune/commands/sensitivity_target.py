"""The rates that ``mmkdprune sensitivity`` suggests for a target, tried at once, and written as a config."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.model import BaseModel

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.evaluation.part import PartialEvaluation
from mmkdprune.pruning.budget import Budget, one_rate
from mmkdprune.pruning.compact_costs import costs_of
from mmkdprune.pruning.sensitivity import RateChooser, lowest_filters, predicted_loss, pruned_for_a_while

from .sensitivity_record import SensitivityRecord


def pruner_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments of a pruner that the command line sets, beside coupling and widths."""
    chosen = {name: getattr(args, name) for name in ("include", "exclude") if getattr(args, name)}
    return chosen | ({"criterion": args.criterion} if args.criterion != "l2" else {})


class SensitivityTarget:
    """What the compact network is to cost; refuses what cannot be met before anything is measured."""

    def __init__(self, model: BaseModel, evaluation: PartialEvaluation, args: argparse.Namespace) -> None:
        share = args.target_params if args.target_params is not None else args.target_macs
        self.target = {"macs" if args.target_params is None else "params": 0.5 if share is None else share}
        self.model, self.round_to, self.selection = model, args.round_to, pruner_arguments(args)
        which = {name: value for name, value in self.selection.items() if name != "criterion"}
        costs = costs_of(model, args.round_to, args.min_keep, evaluation.first_image(), **which)
        self.uniform = one_rate(costs, self.target)
        self.chooser = RateChooser(costs)

    def suggest(
        self, record: SensitivityRecord, evaluation: PartialEvaluation, metric: str, sign: int
    ) -> dict[str, Any]:
        """Choose rates, and measure them beside one rate for all layers.

        Returns:
            dict[str, Any]: Plain types, for the record.
        """
        content = record.content
        curves = record.curves(metric, sign, content["recalibrated"][metric])
        resolution = abs(content["dense"][metric]) / content["validation_images"]
        budget = self.chooser.choose(curves, self.target, resolution)
        return {
            "target": self.target,
            "round_to": self.round_to,
            "rate": budget.rate,
            "rate_map": budget.rate_map,
            "kept": budget.kept,
            "before": budget.before._asdict(),
            "after": budget.after._asdict(),
            "summary": budget.line(),
            "predicted_loss": predicted_loss(curves, budget),
            "predicted_loss_of_one_rate": predicted_loss(curves, self.uniform),
            "one_shot": self._one_shot(evaluation, budget),
            "one_shot_of_one_rate": self._one_shot(evaluation, self.uniform),
        }

    def _one_shot(self, evaluation: PartialEvaluation, budget: Budget) -> dict[str, float]:
        """Metrics with all layers pruned at once, with new statistics and without training."""
        if not budget.rate:
            return evaluation.metrics(recalibrate=False)
        options = {**self.selection, "coupling": "group", "rate_map": budget.rate_map}
        found = lowest_filters(self.model, [budget.rate], **options)
        masks = [(unit, mask) for unit in found.units for mask in found.masks[unit.name].values()]
        with pruned_for_a_while(self.model, found.network, masks):
            return evaluation.metrics(recalibrate=True)

    def tell(self, content: Mapping[str, Any], file: Path) -> None:
        """Print the suggestion, and write it as the base of a config."""
        suggestion, metric = content["suggestion"], content["metric"]
        lines = self._lines(content, file)
        with atomic_write(file, "w", "utf-8") as stream:
            stream.write("\n".join(lines) + "\n")
        print(
            f"{file}\n\n{suggestion['summary']}.\n"
            f"{metric}: dense {content['dense'][metric]:.4g}; pruned at once, with new BatchNorm statistics and "
            f"without training, {suggestion['one_shot'][metric]:.4g} with these rates, "
            f"{suggestion['one_shot_of_one_rate'][metric]:.4g} with one rate for all layers.\n\n" + "\n".join(lines[3:])
        )

    def _lines(self, content: Mapping[str, Any], file: Path) -> list[str]:
        suggestion = content["suggestion"]
        ((quantity, share),) = self.target.items()
        rates = suggestion["rate_map"]
        options = "".join(f"\n        {name}={value!r}," for name, value in self.selection.items())
        text = "\n".join(f"            r'{name}': {rate!r}," for name, rate in rates.items())
        return [
            f"# Rates of layers that leave {share:g} of the {quantity}, suggested by mmkdprune sensitivity for",
            f"# {content['checkpoint']} of {content['config']}. A second base of a config:",
            f"# _base_ = ['{content['config']}', '{file.name}']",
            "prune = dict(",
            "    pruner=dict(",
            "        method='ghfp-asrfp',",
            f"        rate={suggestion['rate']!r},",
            f"        coupling='group',{options}",
            "        rate_map={",
            text,
            "        }),",
            "    evaluate_finalize=True)",
        ]
