"""Train rows of the queue and write down what the deployable networks reached.

    python benchmarks/reproduce.py --list
    python benchmarks/reproduce.py A1 A2                        # groups of benchmarks/rows.yml, one run after the other
    python benchmarks/reproduce.py B3 --jobs 8 --budget 25m     # several at once; ends in time, repeat it to go on
    python benchmarks/reproduce.py A2 --only '^sfp' --seeds 0

Each run becomes one file in benchmarks/results/. A run whose file is there is not repeated, an interrupted one goes on
from its last checkpoint in work_dirs/rows/. The tables of all result files: python benchmarks/tables.py
"""

import argparse
import os
import re
import sys
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from queue_file import QUEUE, check_seeds, load_queue, rows_of
from result_files import read_result, rows_without_result
from row_queue import OUT_OF_TIME, Queue
from row_runs import LOWEST_PRIORITY
from rows import RESULTS, ROOT, Row

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.commands.missing_data import explained_missing_data
from mmkdprune.errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600}


def seconds(text: str) -> float:
    """Read a duration such as 90, 90s, 25m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 25m or 2h")
    return float(match[1]) * UNITS[match[2] or "s"]


def absent_data(rows: list[Row]) -> dict[str, str]:
    """Find the rows whose validation data are not there.

    Returns:
        dict[str, str]: What to put where, by row.
    """
    known: dict[str, str] = {}
    absent = {}
    for row in rows:
        settings = row.settings()
        loader = str(settings.val_dataloader)
        if loader not in known:
            known[loader] = ""
            init_default_scope(settings.get("default_scope", "mmengine"))
            try:
                with explained_missing_data(settings, "val_dataloader"):
                    Runner.build_dataloader(settings.val_dataloader)
            except (UsageError, FileNotFoundError, NotADirectoryError) as error:
                known[loader] = str(error)
        if known[loader]:
            absent[str(row)] = known[loader]
    return absent


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", help="groups of the queue")
    parser.add_argument("--list", action="store_true", help="show the queue and what is done, and end")
    parser.add_argument(
        "--only", type=re.compile, default=re.compile(""), metavar="REGEX", help="only rows whose name matches"
    )
    parser.add_argument("--seeds", nargs="+", type=int, help="instead of those in the queue")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, on one device (default: 1)")
    parser.add_argument(
        "--threads", type=int, help="threads of each run (default: 1; with a GPU all cores, shared out)"
    )
    parser.add_argument(
        "--nice",
        type=int,
        choices=range(LOWEST_PRIORITY + 1),
        default=LOWEST_PRIORITY,
        metavar="0..19",
        help="priority of the runs: 0 is that of other processes, 19 the lowest (default: 19)",
    )
    parser.add_argument("--devices", type=lambda text: text.split(","), default=[], help="GPUs for the runs: 0,1,...")
    parser.add_argument("--budget", type=seconds, metavar="TIME", help="stop after 90s, 25m, 2h; checkpoints stay")
    parser.add_argument("--queue", type=Path, default=QUEUE, help="another queue")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--work-dirs", type=Path, default=ROOT / "work_dirs" / "rows", help="folder of the runs")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    args = parser.parse_args()
    if not args.groups and not args.list:
        parser.error("name at least one group of the queue; --list shows them")
    for name in ("jobs", "threads"):
        value = getattr(args, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be 1 or more, got {value}")
    return args


def show(rows: list[Row], queue: dict, results: Path) -> None:
    """Print the rows by group, and which have a result."""
    marks = {row.file_name: mark(row, results / row.file_name) for row in rows}
    for group in queue:
        members = [row for row in rows if row.group == group]
        if members:
            print(f"{group}: {queue[group]['title']}")
        for row in members:
            print(f"  [{marks[row.file_name]}] {row}")
    if "!" in marks.values():
        print("[!]: the stored result is damaged, or of another config")


def mark(row: Row, file: Path) -> str:
    """Tell whether a row has a result (x), none, or one that is damaged or of another config (!)."""
    if not file.is_file():
        return " "
    try:
        return "x" if read_result(file)["config_sha256"] == row.hash else "!"
    except UsageError:
        return "!"


def main() -> None:
    """Run the queue; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        if args.seeds is not None:
            check_seeds(args.seeds, "--seeds")
        queue = load_queue(args.queue)
        rows = [row for row in rows_of(queue, args.groups or list(queue), args.seeds) if args.only.search(row.name)]
        if args.list:
            show(rows, queue, args.results)
            return
        if not rows:
            raise UsageError(f"no row of {', '.join(args.groups)} matches {args.only.pattern!r}")
        missing = rows_without_result(rows, args.results)
        print(f"{len(rows)} rows, {len(rows) - len(missing)} of them done", flush=True)
        work = make_queue(missing, args)
    with readable_errors(args.debug):
        work.run()
    if work.failed:
        reasons = "; ".join(f"{row} ({reason})" for row, reason in work.failed.items())
        sys.exit(f"error: {len(work.failed)} rows failed: {reasons}")
    if work.stopping == OUT_OF_TIME and work.without_progress and not (work.done or work.has_progress):
        sys.exit(
            f"error: the budget was too short for one epoch of {'; '.join(work.without_progress)}: nothing new is "
            "saved. Give a larger --budget, or fewer --jobs"
        )
    if work.stopping:
        print(f"{work.done} of {work.total} rows done; the same command goes on from here")


def make_queue(rows: list[Row], args: argparse.Namespace) -> Queue:
    """Make the queue; rows whose data are not there have failed before it begins."""
    absent = absent_data(rows)
    cores = os.cpu_count() or 1
    threads = args.threads or (max(1, cores // args.jobs) if torch.cuda.is_available() else 1)
    there = [row for row in rows if str(row) not in absent]
    folders = args.results.resolve(), args.work_dirs.resolve()
    work = Queue(there, *folders, args.jobs, args.budget, args.devices, threads, args.nice)
    work.failed.update(absent)
    return work


if __name__ == "__main__":
    main()
