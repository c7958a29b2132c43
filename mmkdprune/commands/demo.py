"""Train, prune, compact and report on scanned digits: ``mmkdprune demo``."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from mmkdprune.commands.processes import as_typed, command_line, ends_with_parent
from mmkdprune.commands.run_log import read_accuracies
from mmkdprune.config.shipped import config_name
from mmkdprune.deploy.compact_report import table

CONFIG = "combined/mixskd-ghfp-asrfp_resnet20_1xb64-20e_digits-16px.py"
# One mask for all layers that are added up: then whole stages get narrower, not only the inside of blocks.
COUPLING = "custom_hooks.0.pruner.coupling=group"
GOAL = 97.0  # percent; a run that ends below it went wrong


def free_folder(wanted: Path) -> Path:
    """Return ``wanted``, or with a number when there is something already: an earlier demo is kept."""
    folder, number = wanted, 2
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder


def call(name: str, *words: str | Path) -> None:
    """Print and run a command; end as it does when it fails."""
    command = command_line(name, *words)
    print(f"\n$ {as_typed(command)}\n", flush=True)
    try:
        status = subprocess.run(command, preexec_fn=ends_with_parent(os.getpid())).returncode
    except KeyboardInterrupt:
        sys.exit(130)  # the command has said what to do
    if status:
        sys.exit(status)


def test(config: str | Path, checkpoint: Path, folder: Path) -> float:
    """Test a checkpoint; return its accuracy in percent."""
    metrics = folder / "metrics.json"
    call("test", config, checkpoint, "--work-dir", folder, "--out", metrics, "--out-item", "metrics")
    return json.loads(metrics.read_text(encoding="utf-8"))["accuracy/top1"]


def run(args: argparse.Namespace) -> None:
    """Run the demo; see :mod:`mmkdprune.cli.demo`."""
    work_dir, config = free_folder(args.work_dir), config_name(CONFIG)
    start = time.monotonic()
    call("train", config, "--work-dir", work_dir, "--cfg-options", COUPLING)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    checkpoint = work_dir / Path((work_dir / "last_checkpoint").read_text().strip()).name
    call("export", checkpoint)
    compact = work_dir / "compact"
    call("compact", config, checkpoint, "--out", compact)
    dense_accuracy = test(config, checkpoint, work_dir / "test_dense")
    accuracy = test(compact / "config.py", compact / "compact.pth", work_dir / "test_compact")
    history = list(read_accuracies(work_dir).values())
    best = max(history)
    print(
        f"\nMixSKD with GHFP, ResNet-20, digits: {history[-1]:.2f} % of the test images right after the last epoch "
        f"(best: {best:.2f} % after epoch {history.index(best) + 1}); trained in {minutes} min {seconds} s."
    )
    report = json.loads((compact / "report.json").read_text(encoding="utf-8"))
    rows = {"test images right": (f"{dense_accuracy:.2f} %", f"{accuracy:.2f} %")}
    print(f"\nWith its zeros (dense) and without them (compact, in {compact}):\n\n{table(report, rows)}")
    if history[-1] < GOAL:
        sys.exit(f"error: that is below {GOAL} %, so something is wrong with this installation")
    if accuracy != dense_accuracy:
        sys.exit("error: the compact network does not decide as the pruned one, so something is wrong")
