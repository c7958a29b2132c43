"""Train MixSKD on scanned digits, export the backbone and show how to use it: ``make demo``.

    python tools/demo.py [--work-dir DIR]

Runs the two commands that it prints, nothing else. Needs no download and no GPU.
"""

import argparse
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

from mmkdprune.utils.run_log import read_accuracies

TOOLS = Path(__file__).resolve().parent
CONFIG = TOOLS.parent / "configs" / "mixskd" / "mixskd_resnet20_1xb64-20e_digits-16px.py"
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
        status = subprocess.run([sys.executable, *command[1:]]).returncode
    except KeyboardInterrupt:
        sys.exit(130)  # the command has said what to do
    if status:
        sys.exit(status)


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work-dir", type=Path, default=Path("work_dirs/demo"), help="where to write")
    work_dir = free_folder(parser.parse_args().work_dir)
    config = CONFIG.relative_to(Path.cwd()) if CONFIG.is_relative_to(Path.cwd()) else CONFIG
    tools = TOOLS.relative_to(Path.cwd()) if TOOLS.is_relative_to(Path.cwd()) else TOOLS
    start = time.monotonic()
    run(tools / "train.py", config, "--work-dir", work_dir)
    minutes, seconds = divmod(round(time.monotonic() - start), 60)
    checkpoint = work_dir / Path((work_dir / "last_checkpoint").read_text().strip()).name
    run(tools / "export_backbone.py", checkpoint)
    history = list(read_accuracies(work_dir).values())
    best = max(history)
    print(
        f"\nMixSKD, ResNet-20, digits: {history[-1]:.2f} % of the test images right after the last epoch "
        f"(best: {best:.2f} % after epoch {history.index(best) + 1}); trained in {minutes} min {seconds} s."
    )
    if history[-1] < GOAL:
        sys.exit(f"error: that is below {GOAL} %, so something is wrong with this installation")


if __name__ == "__main__":
    main()
