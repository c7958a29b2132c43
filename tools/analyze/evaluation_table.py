"""Put the results of evaluation tools (their --out files) into one Markdown table, seeds of a run into one row.

python tools/analyze/evaluation_table.py results/few_shot_*.json results/linear_*.json
"""

import argparse
from pathlib import Path

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.evaluation.report import markdown_table, read_reports


def main() -> None:
    """Do what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="result files of few_shot.py, linear_probe.py or knn.py")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    args = parser.parse_args()
    with readable_errors(args.debug):
        print(markdown_table(read_reports(args.files)), end="")


if __name__ == "__main__":
    main()
