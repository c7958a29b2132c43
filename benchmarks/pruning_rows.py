"""Train every pruning method on Digits with several seeds and write down what was reached.

    python benchmarks/pruning_rows.py --seeds 0 1 2
    python benchmarks/pruning_rows.py --table benchmarks/results/prune_*.json

The runs are the variants of ``configs/pruning/variants.yml`` that match ``--match``. Each becomes one JSON file in
``benchmarks/results/``; a file that exists is a run that is not repeated. Beside what ``train_rows.py`` writes, a row
has the accuracy right before the last prune step and after the end of pruning, and whether every layer has exactly
floor(N * rate) zero filters.
"""

import argparse
import json
import math
import re
import statistics
from collections import defaultdict
from pathlib import Path

from train_rows import RESULTS, ROOT, train

from mmkdprune.utils.variants import Variant, load_variants

STEP = ("t", "rate", "decay", "hard_share", "pruned", "hard", "zero", "final")
DIGITS_NAME = "digits-16px"
DIGITS = f"_{DIGITS_NAME}$"
LIST = ROOT / "configs" / "pruning" / "variants.yml"
METHODS = list(dict.fromkeys(variant.values.get("method", "plain") for variant in load_variants(LIST).values()))


def run(variant: Variant, seed: int, options: list[str], work_dirs: Path) -> dict:
    """Train a variant and return its row."""
    words = [*variant.option_words(), *options]
    row = train(variant.config.relative_to(ROOT), seed, words, work_dirs / variant.name)
    work_dir = work_dirs / variant.name / f"seed{seed}" / variant.config.stem
    report = json.loads((work_dir / "pruning_report.json").read_text())
    last, rate = report["steps"][-1], report["settings"]["rate"]
    row["variant"] = variant.name
    row["pruning"] = {
        "method": variant.values["method"],
        "rate": rate,
        "top1_before": round(report["before_finalize"]["accuracy/top1"], 4),
        "top1_after": round(report["after_finalize"]["accuracy/top1"], 4),
        "zero": last["zero"],
        "filters": last["filters"],
        "exact_in_every_layer": all(
            layer["zero"] == math.floor(layer["filters"] * rate + 1e-9) for layer in last["layers"].values()
        ),
        "steps": [{key: step[key] for key in STEP} for step in report["steps"]],
    }
    return row


def table(rows: list[dict]) -> str:
    """Make the Markdown table of the rows, one line a variant."""
    groups = defaultdict(list)
    for row in rows:
        data = row["variant"].rsplit("_", 1)[-1]
        run, planned = row["epochs_run"], row["epochs_planned"]
        epochs = str(run) if run == planned else f"{run} of {planned}"
        groups[row["pruning"]["rate"], data, epochs, row["pruning"]["method"]].append(row)
    names = ["data", "epochs", "method", "rate", "before the last step, top-1", "after finalize, top-1"]
    names += ["zero of all", "exact", "seeds"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    order = sorted(
        groups.items(), key=lambda item: (item[0][1] != DIGITS_NAME, *item[0][:3], METHODS.index(item[0][3]))
    )
    for (rate, data, epochs, method), group in order:
        cells = []
        for key in ("top1_before", "top1_after"):
            values = [row["pruning"][key] for row in group]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        first = group[0]["pruning"]
        exact = "yes" if all(row["pruning"]["exact_in_every_layer"] for row in group) else "no"
        seeds = ", ".join(str(row["seed"]) for row in sorted(group, key=lambda row: row["seed"]))
        count = f"{first['zero']:,} of {first['filters']:,}"
        lines.append(
            f"| {data} | {epochs} | {method} | {rate:g} | {cells[0]} | {cells[1]} | {count} | {exact} | {seeds} |"
        )
    return "\n".join(lines)


def steps_table(rows: list[dict]) -> str:
    """Make the Markdown table of the schedules that runs went through, one line a prune step."""
    lines = ["| method | epoch | P | alpha | lambda | zero of all |", "|---|---|---|---|---|---|"]
    for row in rows:
        for step in row["pruning"]["steps"]:
            if not step["final"]:
                values = f"{step['rate']:.6f} | {step['decay']:.6f} | {step['hard_share']:.6f}"
                zero = f"{step['zero']:,} of {row['pruning']['filters']:,}"
                lines.append(f"| {row['pruning']['method']} | {step['t'] + 1} | {values} | {zero} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rows that have no result yet, then print the table of all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--match", default=rf"-0\.4_.*{DIGITS}", help="regular expression on the variants' names")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, help="shorten the runs, and mark their files with it")
    parser.add_argument("--work-dirs", type=Path, default=ROOT / "work_dirs" / "rows", help="where runs are written")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--table", nargs="+", type=Path, help="only print the table of these result files")
    parser.add_argument("--steps", action="store_true", help="print what the schedules did instead")
    args = parser.parse_args()
    files = args.table or []
    variants = load_variants(LIST)
    chosen = [variant for name, variant in variants.items() if re.search(args.match, name)] if not files else []
    for seed in args.seeds if chosen else []:
        for variant in chosen:
            tag = f"_{args.epochs}e" if args.epochs else ""
            out = args.results / f"prune_{variant.name}{tag}_seed{seed}.json"
            if not out.exists():
                options = [f"train_cfg.max_epochs={args.epochs}"] if args.epochs else []
                row = run(variant, seed, options, args.work_dirs)
                args.results.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(row, indent=2) + "\n")
            files.append(out)
    print((steps_table if args.steps else table)([json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main()
