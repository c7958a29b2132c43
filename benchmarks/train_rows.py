"""Train configs with several seeds and write down what the deployable network reached.

    python benchmarks/train_rows.py configs/mixskd/*_digits-16px.py --seeds 0 1 2
    python benchmarks/train_rows.py --table benchmarks/results/train_*.json

Each run becomes one JSON file in ``benchmarks/results/``; a file that exists is a run that is not repeated. A teacher
is trained first, once for each seed. The table gives last and best epoch, mean and standard deviation over the seeds.
"""

import argparse
import hashlib
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from datetime import date
from pathlib import Path

import mmengine
import mmpretrain
import torch
from mmengine.config import Config

import mmkdprune
from mmkdprune.utils.command_line import read_config
from mmkdprune.utils.pipeline import parse_options, plan_phases
from mmkdprune.utils.run_log import read_accuracies, read_log

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def train(config: Path, seed: int, options: list[str], work_dirs: Path) -> dict:
    """Run ``tools/train_pipeline.py`` and return the row of its last run."""
    epochs_planned = Config.fromfile(ROOT / config).train_cfg.max_epochs  # overrides may shorten a run
    overrides = [f"randomness.seed={seed}", "default_hooks.logger.interval=1", *options]
    command = ["tools/train_pipeline.py", str(config), "--work-dir", str(work_dirs / f"seed{seed}")]
    command += ["--cfg-options", *overrides]
    phases = plan_phases(str(ROOT / config), overrides, work_dirs / f"seed{seed}")
    work_dir, trained_before = phases[-1].work_dir, sum(phase.is_done() for phase in phases)
    settings = read_config(str(ROOT / config), parse_options(options))
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"error: the run of {config} with seed {seed} failed")
    seconds = time.monotonic() - start
    rows, accuracies = read_log(work_dir), read_accuracies(work_dir)
    steps = [row["time"] for row in rows if "loss" in row]
    batch_size = settings.train_dataloader.batch_size
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "config": str(config),
        "config_sha256": hashlib.sha256(settings.pretty_text.encode()).hexdigest()[:16],
        "overrides": options,
        "seed": seed,
        "epochs_run": len(accuracies),
        "epochs_planned": epochs_planned,
        "top1_last": round(accuracies[-1], 4),
        "top1_best": round(max(accuracies), 4),
        "best_epoch": accuracies.index(max(accuracies)) + 1,
        "images_per_s": round(batch_size / statistics.median(steps), 1),
        "wall_s": round(seconds, 1),
        "runs_timed": len(phases) - trained_before,  # more than 1: a teacher was trained within that time, too
        # on a GPU the allocator's peak as MMEngine logs it, on a CPU the peak resident set of the whole process
        "peak_memory_mib": max((row["memory"] for row in rows if "memory" in row), default=usage.ru_maxrss // 1024),
        "hardware": gpu or f"{platform.machine()} CPU, {os.cpu_count()} cores",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "mmengine": mmengine.__version__,
            "mmpretrain": mmpretrain.__version__,
            "mmkdprune": mmkdprune.__version__,
        },
        "command": shlex.join(["python", *command]).replace(str(work_dirs), "work_dirs/rows"),
        "date": date.today().isoformat(),
    }


def table(rows: list[dict]) -> str:
    """Make the Markdown table of the rows, one line a config and set of overrides."""
    groups = defaultdict(list)
    for row in rows:
        groups[Path(row["config"]).stem, *row["overrides"]].append(row)
    lines = ["| config | epochs | last epoch, top-1 | best epoch, top-1 | seeds |", "|---|---|---|---|---|"]
    for name, group in sorted(groups.items(), reverse=True):
        run, planned = group[0]["epochs_run"], group[0]["epochs_planned"]
        cells = []
        for key in ("top1_last", "top1_best"):
            values = [row[key] for row in group]
            spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.2f}{spread}")
        epochs = str(run) if run == planned else f"{run} of {planned}"
        seeds = ", ".join(str(row["seed"]) for row in sorted(group, key=lambda row: row["seed"]))
        lines.append(f"| `{' '.join(name)}` | {epochs} | {cells[0]} | {cells[1]} | {seeds} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rows that have no result yet, then print the table of all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", type=Path, help="configs to train")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--cfg-options", nargs="+", default=[], help="overrides, key=value")
    parser.add_argument("--work-dirs", type=Path, default=ROOT / "work_dirs" / "rows", help="where runs are written")
    parser.add_argument("--table", nargs="+", type=Path, help="only print the table of these result files")
    args = parser.parse_args()
    files = args.table or []
    tag = f"_{hashlib.sha256(' '.join(args.cfg_options).encode()).hexdigest()[:6]}" if args.cfg_options else ""
    for config in args.configs:
        config = config.resolve().relative_to(ROOT)
        for seed in args.seeds:
            out = RESULTS / f"train_{config.stem}{tag}_seed{seed}.json"
            if not out.exists():
                row = train(config, seed, args.cfg_options, args.work_dirs)
                RESULTS.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps(row, indent=2) + "\n")
            files.append(out)
    print(table([json.loads(file.read_text()) for file in files]))


if __name__ == "__main__":
    main()
