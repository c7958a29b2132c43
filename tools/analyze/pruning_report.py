"""Make the report of a pruned run (JSON and picture) from one of its checkpoints, or the picture from a report.

python tools/analyze/pruning_report.py work_dirs/RUN/epoch_20.pth [--out DIR]
python tools/analyze/pruning_report.py work_dirs/RUN/pruning_report.json --out DIR
python tools/analyze/pruning_report.py work_dirs/RUN/20260101_120000/vis_data/scalars.json --out DIR
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import mmkdprune  # noqa: F401
except ImportError as problem:
    sys.exit(f"error: {problem}; run `pip install -e .` in the clone of mmkdprune")

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.commands.command_line import add_file_check_argument, readable_errors
from mmkdprune.errors import UsageError
from mmkdprune.pruning import make_report, report_from_scalars, save_report


def read(source: Path) -> dict:
    """Make the report's dictionary from a checkpoint, a report or a log of scalars.

    Raises:
        UsageError: If the file holds no pruning.
    """
    if not source.is_file():
        raise UsageError(f"there is no file {source}")
    if source.suffix == ".json":
        lines = source.read_text(encoding="utf-8").splitlines()
        if len(lines) > 1 and lines[0].strip() == "{":
            report = json.loads("\n".join(lines))
        else:
            report = report_from_scalars([json.loads(line) for line in lines if line.strip()])
        if not report.get("steps"):
            raise UsageError(f"{source} holds no prune steps: is it of a run with FilterPruningHook?")
        return report
    state = (load_checkpoint_file(source).get("mmkdprune") or {}).get("pruning")
    if state is None:
        raise UsageError(f"{source} holds no pruning state: is it of a run with FilterPruningHook?")
    return make_report(state, method=state["method"], **state["results"])


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="checkpoint, pruning_report.json or scalars.json of a run")
    parser.add_argument("--out", type=Path, help="folder to write to (default: the source's)")
    add_file_check_argument(parser)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    args = parser.parse_args()
    with readable_errors(args.debug):
        for file in save_report(read(args.source), args.out or args.source.parent):
            print(file)


if __name__ == "__main__":
    main()
