"""Draw accuracy over epochs, and accuracy against cost, from the result files of training rows.

    python tools/analyze/plot_results.py benchmarks/results/train_*_cifar100-20classes-16px_*.json --out pictures
    python tools/analyze/plot_results.py benchmarks/results/train_*.json --match 'fp-0.*digits' --cost flops --out out

Runs that differ in their seed only are one line (mean, and a band from the lowest to the highest) or one point (mean
and standard deviation). Cost is ``time``: milliseconds of training an image, which compare within one machine only; or
``flops``: the share of the network's FLOPs that pruning leaves.
"""

import argparse
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.commands.command_line import readable_errors
from mmkdprune.errors import UsageError

PICTURES = {"epochs": "accuracy_over_epochs.png", "cost": "accuracy_against_cost.png"}
COSTS = {"time": "training time, ms an image", "flops": "FLOPs that pruning leaves, share of the dense network's"}
Groups = dict[str, list[dict[str, Any]]]


def read_groups(files: list[Path], pattern: str) -> Groups:
    """Read result files and group them by row.

    Raises:
        UsageError: A file is no result of a training row, or none is left.
    """
    groups: Groups = defaultdict(list)
    for file in files:
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"there is no file {file}") from None
        except ValueError:
            raise UsageError(f"{file} is no JSON file") from None
        if not isinstance(result, dict) or not ({"row", "top1_last"} <= result.keys() or "metric" in result):
            raise UsageError(f"{file} is no result of benchmarks/reproduce.py")
        if "top1_last" in result and re.search(pattern, result["row"]):
            groups[result["row"]].append(result)
    if not groups:
        raise UsageError(f"no row of the given files matches {pattern!r}")
    return dict(sorted(groups.items(), key=lambda item: -mean(item[1], "top1_last")))


def mean(group: list[dict[str, Any]], field: str) -> float:
    """Mean of a field over the seeds."""
    return statistics.mean(result[field] for result in group)


def label(name: str, group: list[dict[str, Any]]) -> str:
    """Name of a row, with the number of its seeds and what was trained of what was planned."""
    first = group[0]
    shortened = first["epochs_run"] != first["epochs_planned"]
    length = f", {first['epochs_run']} of {first['epochs_planned']} epochs" if shortened else ""
    return f"{name} ({len(group)} seed{'s' if len(group) > 1 else ''}{length})"


def curve(group: list[dict[str, Any]]) -> dict[int, list[float]]:
    """Accuracies of all seeds by epoch."""
    values: dict[int, list[float]] = defaultdict(list)
    for result in group:
        for entry in result.get("log", []):
            if "top1" in entry:
                values[entry["epoch"]].append(entry["top1"])
    return dict(sorted(values.items()))


def cost(group: list[dict[str, Any]], kind: str) -> float | None:
    """Mean cost of a row; None where it is not known, as the FLOPs without single weights."""
    if kind == "time":
        return statistics.mean(1e3 / result["images_per_s"] for result in group)
    reductions = [
        result.get("pruning", {"paper_flops_reduction": 0.0}).get("paper_flops_reduction") for result in group
    ]
    return None if None in reductions else 1 - statistics.mean(reductions)


def draw_epochs(groups: Groups) -> Any:
    """Draw accuracy over epochs; None when no file holds it."""
    figure, axes = new_figure(len(groups))
    for name, group in groups.items():
        values = curve(group)
        if not values:
            continue
        (line,) = axes.plot(list(values), [statistics.mean(row) for row in values.values()], label=label(name, group))
        if len(group) > 1:
            low, high = [min(row) for row in values.values()], [max(row) for row in values.values()]
            axes.fill_between(list(values), low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    if not axes.lines:
        return None
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return finished(figure, axes)


def draw_costs(groups: Groups, kind: str) -> Any:
    """Draw accuracy after the last epoch against cost."""
    costs = {name: value for name, group in groups.items() if (value := cost(group, kind)) is not None}
    for name in groups.keys() - costs.keys():
        print(f"{name}: no {kind} known, left out of the second picture")
    figure, axes = new_figure(len(costs))
    for number, (name, value) in enumerate(costs.items()):
        group = groups[name]
        accuracies = [result["top1_last"] for result in group]
        error = statistics.stdev(accuracies) if len(accuracies) > 1 else None
        marker = "os^Dv<>P*X"[number // 10 % 10]
        height = statistics.mean(accuracies)
        axes.errorbar(value, height, yerr=error, fmt=marker, capsize=3, label=label(name, group))
    axes.set_xlabel(COSTS[kind])
    return finished(figure, axes)


def new_figure(entries: int) -> tuple[Any, Any]:
    """Make a figure with room for a legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5 + 0.2 * entries), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def finished(figure: Any, axes: Any) -> Any:
    """Put grid, names and legend to a picture."""
    axes.set_ylabel("top-1 of the deployable network, %")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower left", fontsize=8, frameon=False)
    return figure


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="result files of benchmarks/reproduce.py")
    parser.add_argument("--match", default="", metavar="REGEX", help="only rows whose name matches")
    parser.add_argument("--cost", choices=COSTS, default="time", help="what accuracy is drawn against (default: time)")
    parser.add_argument("--out", type=Path, default=Path(), help="folder to write to (default: the current one)")
    parser.add_argument("--overwrite", action="store_true", help="replace pictures that are there")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    args = parser.parse_args()
    with readable_errors(args.debug):
        groups = read_groups(args.files, args.match)
        there = [str(args.out / name) for name in PICTURES.values() if (args.out / name).exists()]
        if there and not args.overwrite:
            raise UsageError(f"{', '.join(there)}: there already; give another --out, or --overwrite")
        pictures = {"epochs": draw_epochs(groups), "cost": draw_costs(groups, args.cost)}
        for kind, figure in pictures.items():
            if figure is None:
                print("no accuracy by epoch in these files: that picture is left out")
                continue
            with atomic_write(args.out / PICTURES[kind]) as stream:
                figure.savefig(stream, format="png", dpi=130)
            print(args.out / PICTURES[kind])


if __name__ == "__main__":
    main()
