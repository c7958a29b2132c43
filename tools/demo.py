"""Train, prune, compact and report on scanned digits: ``make demo``.

    python tools/demo.py [--work-dir DIR]

MixSKD trains a network while GHFP prunes it; its backbone is exported, the zeros are removed, and the small network is
tested beside the large one. Runs the commands that it prints, nothing else. Needs no download and no GPU.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    absent = isinstance(problem, ModuleNotFoundError) and problem.name == "mmkdprune"
    sys.exit(f"error: {problem}" + ("; run `pip install -e .` in its clone" if absent else ""))

from mmkdprune.commands.processes import ends_with_parent
from mmkdprune.commands.run_log import read_accuracies
from mmkdprune.deploy.compact_report import table

TOOLS = Path(__file__).resolve().parent
CONFIG = TOOLS.parent / "configs" / "combined" / "mixskd-ghfp-asrfp_resnet20_1xb64-20e_digits-16px.py"
# One mask for all layers that are added up: then whole stages get narrower, not only the inside of blocks.
COUPLING = "custom_hooks.0.pruner.coupling=group"
GOAL = 97.0  # percent; a run that ends below it went wrong


def free_folder(wanted: Path) -> Path:
    """Return ``wanted``, or with a number when there is something already: an earlier demo is kept."""
    folder, number = wanted, 2
    while folder.exists():
        folder, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return folder


def run(*arguments: str | Path) -> None:
    """Print and run a command; end as it does when it fails."""
    command = ["python", *map(str, arguments)]
    print(f"\n$ {shlex.join(command)}\n", flush=True)
    try:
        started = subprocess.run([sys.executable, *command[1:]], preexec_fn=ends_with_parent(os.getpid()))
        status = started.returncode
    except KeyboardInterrupt:
        sys.exit(130)  # the command has said what to do
    if status:
        sys.exit(status)


def test(tool: Path, config: Path, checkpoint: Path, folder: Path) -> float:
    """Test a checkpoint; return its accuracy in percent."""
    metrics = folder / "metrics.json"
    run(tool, config, checkpoint, "--work-dir", folder, "--out", metrics, "--out-item", "metrics")
    return json.loads(metrics.read_text(encoding="utf-8"))["accuracy/top1"]


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"), help="where to write")
    work_dir = free_folder(parser.parse_args().work_dir)
    config = CONFIG.relative_to(Path.cwd()) if CONFIG.is_relative_to(Path.cwd()) else CONFIG
    tools = TOOLS.relative_to(Path.cwd()) if TOOLS.is_relative_to(Path.cwd()) else TOOLS
    start = time.monotonic()
    run(tools / "train.py", config, "--work-dir", work_dir, "--cfg-options", COUPLING)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    checkpoint = work_dir / Path((work_dir / "last_checkpoint").read_text().strip()).name
    run(tools / "export_backbone.py", checkpoint)
    compact = work_dir / "compact"
    run(tools / "compact.py", config, checkpoint, "--out", compact)
    dense_accuracy = test(tools / "test.py", config, checkpoint, work_dir / "test_dense")
    accuracy = test(tools / "test.py", compact / "config.py", compact / "compact.pth", work_dir / "test_compact")
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


if __name__ == "__main__":
    main()
