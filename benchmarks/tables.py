"""Write the tables of the documentation from the result files.

    python benchmarks/tables.py            # rewrite every table
    python benchmarks/tables.py --check    # only tell whether one differs from its data

A table stands between ``<!-- table: KIND ARGUMENTS -->`` and ``<!-- end of table -->`` in a README. The kinds:

    training REGEX          training rows without pruning whose config matches, one line a row and length
    group NAME              all rows of a group of the queue
    pruning REGEX           pruned training rows whose name matches
    pruning-steps REGEX     what their schedules did
    evaluations REGEX       result files of the evaluation tools whose name matches
    timing FILE COLUMN ...  columns of a timing benchmark's file; name=value chooses rows
    fine-tuning REGEX       rows of detectors and segmentors whose name matches
    chain FILE              backbones in a detector and a segmentor, from a report of tools/run_chain.py
"""

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from queue_file import load_queue, rows_of
from result_files import method_of
from rows import CONFIGS, RESULTS, ROOT, read_results

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.commands.chain.report import table
from mmkdprune.commands.evaluation.report import markdown_table, read_reports
from mmkdprune.commands.variants import load_variants

MARKED = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end of table -->)", re.DOTALL)
DIGITS = "digits-16px"


def markdown(names: Iterable[str], lines: Iterable[Iterable[Any]]) -> str:
    """Put cells into a Markdown table."""
    names = list(names)
    rows = [f"| {' | '.join(map(str, cells))} |" for cells in (names, *lines)]
    return "\n".join([rows[0], "|" + "---|" * len(names), *rows[1:]]) + "\n"


def spread(values: list[float]) -> str:
    """Mean, and standard deviation where there are several values."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation}"


def length(row: dict[str, Any]) -> str:
    """Epochs of a run; a shortened one says of how many."""
    run, planned = row["epochs_run"], row["epochs_planned"]
    return str(run) if run == planned else f"{run} of {planned}"


def seeds(group: list[dict[str, Any]]) -> str:
    """Seeds of a group of runs."""
    return ", ".join(str(row["seed"]) for row in sorted(group, key=lambda row: row["seed"]))


def grouped(rows: Iterable[dict[str, Any]], key: Callable[[dict[str, Any]], Any]) -> dict[Any, list[dict[str, Any]]]:
    """Group rows that differ in their seed only."""
    groups = defaultdict(list)
    for row in rows:
        groups[key(row)].append(row)
    return groups


def training_table(results: Path, pattern: str) -> str:
    """Last and best accuracy of the deployable networks of configs without pruning."""
    rows = read_results(results)
    return accuracy_table([row for row in rows if "pruning" not in row and re.search(pattern, row["config"])])


def group_table(results: Path, group: str) -> str:
    """Last and best accuracy of all rows of a group, pruned ones and those that it shares with others among them."""
    names = {row.name for row in rows_of(load_queue(), [group], None)}
    return accuracy_table([row for row in read_results(results) if row["group"] == group or row["row"] in names])


def fine_tuning_table(results: Path, pattern: str) -> str:
    """Last and best figure of detectors and segmentors, one line a row."""
    rows = [row for row in read_results(results, pattern) if "metric" in row]
    lines = []
    for (name, metric), group in grouped(rows, lambda row: (row["row"], row["metric"])).items():
        values = [spread([row[key] for row in group]) for key in ("last", "best")]
        lines.append([f"`{name}`", metric.rsplit("/", 1)[-1].removeprefix("bbox_"), *values, seeds(group)])
    return markdown(["row", "metric", "last", "best", "seeds"], lines)


def accuracy_table(rows: list[dict[str, Any]]) -> str:
    """One line per classifier and length, in the order of the queue."""
    rows = [row for row in rows if "top1_last" in row]
    queue = load_queue()
    order = {row.name: number for number, row in enumerate(rows_of(queue, list(queue), [0]))}
    groups = grouped(rows, lambda row: (order.get(row["row"], len(order)), row["row"], length(row)))
    lines = []
    for (_, name, epochs), group in sorted(groups.items()):
        accuracies = [spread([row[key] for row in group]) for key in ("top1_last", "top1_best")]
        lines.append([f"`{name}`", epochs, *accuracies, seeds(group)])
    return markdown(["row", "epochs", "last epoch, top-1", "best epoch, top-1", "seeds"], lines)


def pruning_table(results: Path, pattern: str) -> str:
    """Accuracy of pruned networks before the last prune step and after the end, how masks moved, and zero filters."""
    variants = load_variants(CONFIGS / "pruning" / "variants.yml").values()
    methods = list(dict.fromkeys(variant.values.get("method", "plain") for variant in variants))
    rows = [row for row in read_results(results, pattern) if "pruning" in row]

    def key(row: dict[str, Any]) -> tuple:
        data = row["config"].removesuffix(".py").rsplit("_", 1)[-1]
        rate = row["pruning"]["rate"]
        # a row may have got another name since
        return data != DIGITS, data, rate, length(row), methods.index(method_of(row["row"], rate))

    lines = []
    for (_, data, rate, epochs, method), group in sorted(grouped(rows, key).items()):
        first = group[0]["pruning"]
        exact = "yes" if all(row["pruning"]["exact_in_every_layer"] for row in group) else "no"
        accuracies = [spread([row["pruning"][name] for row in group]) for name in ("top1_before", "top1_after")]
        shares = [row["pruning"]["exchanged"] for row in group if row["pruning"].get("exchanged") is not None]
        # rows of an earlier version did not keep it
        exchanged = spread([100 * share for share in shares]) if shares else "not kept"
        count = f"{first['zero']:,} of {first['filters']:,}"
        lines.append([data, epochs, methods[method], f"{rate:g}", *accuracies, exchanged, count, exact, seeds(group)])
    names = ["data", "epochs", "method", "rate", "before the last step, top-1", "after finalize, top-1"]
    return markdown([*names, "exchanged a step, %", "zero of all", "exact", "seeds"], lines)


def pruning_steps_table(results: Path, pattern: str) -> str:
    """The schedules that runs went through, one line a prune step."""
    lines = []
    for row in read_results(results, pattern):
        if "pruning" in row:
            pruning = row["pruning"]
            for step in pruning["steps"]:
                if not step["final"]:
                    values = [f"{step[name]:.6f}" for name in ("rate", "decay", "hard_share")]
                    zero = f"{step['zero']:,} of {pruning['filters']:,}"
                    lines.append([pruning["method"], step["t"] + 1, *values, zero])
    return markdown(["method", "epoch", "P", "alpha", "lambda", "zero of all"], lines)


def timing_table(results: Path, arguments: str) -> str:
    """Some columns of a timing benchmark's rows; ``name=value`` chooses rows."""
    file, *words = arguments.split()
    columns = [word for word in words if "=" not in word]
    wanted = dict(word.split("=") for word in words if "=" in word)
    rows = json.loads((results / file).read_text())["rows"]
    chosen = [row for row in rows if all(str(row[name]) == value for name, value in wanted.items())]
    return markdown(columns, ([row[name] for name in columns] for row in chosen))


def chain_table(results: Path, file: str) -> str:
    """Backbones in detection and segmentation, means over the seeds."""
    return table(json.loads((results / file).read_text()))


def evaluations_table(results: Path, pattern: str) -> str:
    """Figures of linear probes, nearest neighbours and few-shot episodes."""
    files = sorted(file for file in results.glob("evaluation_*.json") if re.search(pattern, file.stem))
    return markdown_table(read_reports(files))


KINDS: dict[str, Callable[[Path, str], str]] = {
    "training": training_table,
    "group": group_table,
    "pruning": pruning_table,
    "pruning-steps": pruning_steps_table,
    "timing": timing_table,
    "fine-tuning": fine_tuning_table,
    "chain": chain_table,
    "evaluations": evaluations_table,
}


def rewritten(text: str, results: Path = RESULTS) -> str:
    """Return a text with all of its marked tables made anew.

    Raises:
        ValueError: A table is of no known kind, or empty.
    """

    def make(match: re.Match[str]) -> str:
        kind, _, arguments = match[2].partition(" ")
        if kind not in KINDS:
            raise ValueError(f"no kind of table is called {kind!r}; there are {', '.join(KINDS)}")
        table = KINDS[kind](results, arguments)
        if table.count("\n") < 3:
            raise ValueError(f"no result file is left for the table '{match[2]}'")
        return f"{match[1]}\n{table}\n{match[4]}"

    return MARKED.sub(make, text)


def documents(root: Path = ROOT) -> list[Path]:
    """The files that have marked tables."""
    files = [root / "README.md", *(root / "docs").rglob("*.md"), *(root / "benchmarks").glob("*.md")]
    files += (root / "configs").rglob("README.md")
    return sorted(file for file in files if MARKED.search(file.read_text()))


def main() -> None:
    """Rewrite or check; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a table differs from its data")
    args = parser.parse_args()
    stale = []
    for file in documents():
        text = file.read_text()
        new = rewritten(text)
        if new != text:
            stale.append(str(file.relative_to(ROOT)))
            if not args.check:
                with atomic_write(file, "w") as stream:
                    stream.write(new)
    if args.check and stale:
        sys.exit(f"error: tables differ from the result files in {', '.join(stale)}: run python benchmarks/tables.py")
    print(f"{'rewritten' if stale else 'as they should be'}: {', '.join(stale) or 'all tables'}")


if __name__ == "__main__":
    main()
