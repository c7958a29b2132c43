"""Train rows of the queue and write down what the deployable networks reached.

    python benchmarks/reproduce.py --list
    python benchmarks/reproduce.py A1 A2                        # groups of benchmarks/rows.yml, one run after the other
    python benchmarks/reproduce.py B3 --jobs 8 --budget 25m     # several at once; ends in time, repeat it to go on
    python benchmarks/reproduce.py A2 --only '^sfp' --seeds 0

Each run becomes one file in benchmarks/results/. A run whose file is there is not repeated, an interrupted one goes on
from its last checkpoint in work_dirs/rows/. The tables of all result files: python benchmarks/tables.py
"""

import argparse
import contextlib
import fcntl
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from result_files import make_result, write_result
from rows import QUEUE, RESULTS, ROOT, Row, config_hash, load_queue, relative_config, rows_of

from mmkdprune.compat.atomic import atomic_write
from mmkdprune.utils.command_line import UsageError, readable_errors
from mmkdprune.utils.pipeline import Phase, plan_phases
from mmkdprune.utils.run_log import read_accuracies

UNITS = {"s": 1, "m": 60, "h": 3600}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Exit codes of tools/train_pipeline.py, and of Python where the signal came before the tool could take it.
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
OUT_OF_TIME = "the budget is used up"
GRACE_S = 60  # for a stopped run to come to its end before it is killed


@dataclass
class Run:
    """A row in training."""

    row: Row
    work_dir: Path
    phases: list[Phase]
    command: list[str]
    process: subprocess.Popen
    started: float
    epochs_before: int
    lock: IO

    @property
    def log(self) -> Path:
        """Where the output of the run goes."""
        return self.work_dir / "output.log"


def seconds(text: str) -> float:
    """Read a duration such as 90, 90s, 25m or 2h."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 90s, 25m or 2h")
    return float(match[1]) * UNITS[match[2] or "s"]


def cfg_options(row: Row) -> list[str]:
    """Overrides on the command line; ten iterations are also what a logged value is the mean of."""
    return [f"randomness.seed={row.seed}", "default_hooks.logger.interval=10", *row.overrides()]


def command_of(row: Row, work_dir: Path, options: Sequence[str]) -> list[str]:
    """The command that trains a row with these overrides, or goes on with it."""
    command = ["tools/train_pipeline.py", relative_config(row.config), "--work-dir", str(work_dir)]
    return [*command, "--cfg-options", *options]


def finished_epochs(phases: list[Phase]) -> int:
    """Epochs of all phases that are saved."""
    saved = ([int(path.stem.split("_")[1]) for path in phase.work_dir.glob("epoch_*.pth")] for phase in phases)
    return sum(max(numbers, default=0) for numbers in saved)


def set_unvalidated_aside(phase: Phase) -> None:
    """Rename a last checkpoint whose validation was interrupted, so that its epoch is trained and validated again."""
    file = phase.final_checkpoint
    if file.is_file() and phase.length[1] not in read_accuracies(phase.work_dir):
        file.rename(file.with_suffix(".unvalidated"))


def lock_of(work_dir: Path) -> IO:
    """Lock a folder of runs for this process and the run it starts.

    Raises:
        UsageError: Another process works there.
    """
    stream = (work_dir / ".lock").open("w")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise UsageError(f"another process trains in {work_dir}: let it end, or give another --work-dirs") from None
    return stream


class Queue:
    """Runs rows, some at once, within a time.

    Args:
        rows: The rows to train, in order.
        results: Folder of the result files.
        work_dirs: Folder of the runs.
        jobs: Number of runs at once.
        budget: Seconds until all runs are stopped; None for no limit.
        devices: Numbers of the GPUs that runs are given in turn; empty for what PyTorch takes by itself.
    """

    def __init__(
        self,
        rows: list[Row],
        results: Path,
        work_dirs: Path,
        jobs: int,
        budget: float | None,
        devices: Sequence[str] = (),
    ) -> None:
        self.waiting = list(rows)
        self.total = len(rows)
        self.results, self.work_dirs, self.jobs, self.devices = results, work_dirs, jobs, list(devices)
        self.running: list[Run] = []
        self.failed: list[str] = []
        self.done = 0
        self.stopping = ""
        self.killing_at = math.inf
        self.has_progress = False
        self.without_progress: list[str] = []
        self.deadline = None if budget is None else time.monotonic() + budget

    def run(self) -> None:
        """Work until all rows are done, the time is up, or a signal comes."""
        previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            while self.running or (self.waiting and not self.stopping):
                if self.deadline is not None and time.monotonic() > self.deadline and not self.stopping:
                    self._stop(OUT_OF_TIME)
                while self.waiting and len(self.running) < self.jobs and not self.stopping:
                    row = self.waiting.pop(0)
                    with self._reported(row):
                        self._start(row)
                time.sleep(0.2)
                for run in list(self.running):
                    with self._reported(run.row):
                        self._look_after(run)
                if time.monotonic() > self.killing_at:
                    self._kill()
        finally:
            self._kill()  # nothing is left behind, whatever happened here
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def _reported(self, row: Row) -> Iterator[None]:
        """What goes wrong with one row leaves the others alone."""
        try:
            yield
        except (OSError, ValueError) as error:
            self.failed.append(f"{row.name}, seed {row.seed} ({error})")
            print(f"{row.name}, seed {row.seed}: {error}", file=sys.stderr, flush=True)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.stopping and self.stopping != OUT_OF_TIME:
            self.killing_at = 0.0  # asked for twice
        else:
            self._stop(signal.Signals(number).name)

    def _stop(self, reason: str) -> None:
        if not self.stopping:
            print(f"stopping ({reason}): the runs end with their last checkpoints", flush=True)
            self.killing_at = time.monotonic() + GRACE_S
            for run in self.running:
                run.process.send_signal(signal.SIGINT)
        self.stopping = reason

    def _kill(self) -> None:
        for run in self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.process.pid, signal.SIGKILL)

    def _start(self, row: Row) -> None:
        work_dir = self.work_dirs / row.name / f"seed{row.seed}"
        work_dir.mkdir(parents=True, exist_ok=True)
        lock = lock_of(work_dir)
        options = cfg_options(row)
        # the runs that make up the row, its own last; it may need a teacher
        phases = plan_phases(str(row.config), options, work_dir)
        set_unvalidated_aside(phases[-1])
        command = command_of(row, work_dir, options)
        environment = dict(os.environ)
        if self.jobs > 1:  # several runs with a thread a core each would be slower than one after the other
            environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // self.jobs))
        if self.devices:
            self.devices.append(self.devices.pop(0))
            environment["CUDA_VISIBLE_DEVICES"] = self.devices[-1]
        with (work_dir / "output.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C reaches this process alone, which passes it on once
                pass_fds=[lock.fileno()],  # locked as long as the run lives, even if this process is killed
            )
        run = Run(row, work_dir, phases, command, process, time.monotonic(), finished_epochs(phases), lock)
        self.running.append(run)
        print(f"{row.name}, seed {row.seed}: started, output in {run.log}", flush=True)

    def _look_after(self, run: Run) -> None:
        pid, status, usage = os.wait4(run.process.pid, os.WNOHANG)
        if pid == 0:
            return
        self.running.remove(run)
        run.lock.close()
        run.process.returncode = os.waitstatus_to_exitcode(status)
        spent = add_up(run.work_dir, time.monotonic() - run.started, usage.ru_maxrss // 1024)
        label = f"{run.row.name}, seed {run.row.seed}"
        if run.process.returncode == 0:
            command = shlex.join(["python", *run.command]).replace(str(self.work_dirs), "work_dirs/rows")
            result = make_result(run.row, run.phases, command, self.jobs, **spent)
            write_result(self.results / run.row.file_name, result)
            self.done += 1
            print(f"{label}: {result['top1_last']:.2f} % ({self.done} of {self.total})", flush=True)
        elif self.stopping and run.process.returncode in STOPPED:
            saved = finished_epochs(run.phases)
            if saved > run.epochs_before:
                self.has_progress = True
            else:
                self.without_progress.append(label)
            print(f"{label}: stopped, {saved} epochs are saved", flush=True)
        else:
            self.failed.append(f"{label} (exit code {run.process.returncode}, see {run.log})")
            print(f"{label}: failed\n{tail(run.log)}", file=sys.stderr, flush=True)


def add_up(work_dir: Path, seconds: float, memory: int) -> dict[str, float]:
    """Add what a run has cost now to what it cost before it was interrupted."""
    file = work_dir / "spent.json"
    spent = json.loads(file.read_text()) if file.is_file() else {"wall_s": 0.0, "memory_mib": 0}
    spent = {"wall_s": round(spent["wall_s"] + seconds, 1), "memory_mib": max(spent["memory_mib"], memory)}
    with atomic_write(file, "w") as stream:
        json.dump(spent, stream)
    return spent


def tail(file: Path, lines: int = 15) -> str:
    """The end of a text file."""
    return "\n".join(file.read_text(errors="replace").splitlines()[-lines:])


def without_result(rows: list[Row], results: Path) -> list[Row]:
    """Leave out the rows whose result is there.

    Raises:
        UsageError: A result file is of another config.
    """
    missing = []
    for row in rows:
        file = results / row.file_name
        if not file.is_file():
            missing.append(row)
            continue
        there, here = json.loads(file.read_text())["config_sha256"], config_hash(row.settings())
        if there != here:
            raise UsageError(
                f"{file} is the result of another config (hash {there}, now {here}) and is not replaced: move it away, "
                "or give the rows another name in the queue"
            )
    return missing


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
    parser.add_argument("--devices", type=lambda text: text.split(","), default=[], help="GPUs for the runs: 0,1,...")
    parser.add_argument("--budget", type=seconds, metavar="TIME", help="stop after 90s, 25m, 2h; checkpoints stay")
    parser.add_argument("--queue", type=Path, default=QUEUE, help="another queue")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--work-dirs", type=Path, default=ROOT / "work_dirs" / "rows", help="folder of the runs")
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    args = parser.parse_args()
    if not args.groups and not args.list:
        parser.error("name at least one group of the queue; --list shows them")
    if args.jobs < 1:
        parser.error(f"--jobs must be 1 or more, got {args.jobs}")
    return args


def show(rows: list[Row], queue: dict, results: Path) -> None:
    """Print the rows by group, and which have a result."""
    for group in dict.fromkeys(row.group for row in rows):
        print(f"{group}: {queue[group]['title']}")
        for row in rows:
            if row.group == group:
                print(f"  [{'x' if (results / row.file_name).is_file() else ' '}] {row.name}, seed {row.seed}")


def main() -> None:
    """Run the queue; see the module's docstring."""
    args = parse_args()
    with readable_errors(args.debug, building=True):
        queue = load_queue(args.queue)
        rows = [row for row in rows_of(queue, args.groups or list(queue), args.seeds) if args.only.search(row.name)]
        if args.list:
            show(rows, queue, args.results)
            return
        if not rows:
            raise UsageError(f"no row of {', '.join(args.groups)} matches {args.only.pattern!r}")
        missing = without_result(rows, args.results)
        print(f"{len(rows)} rows, {len(rows) - len(missing)} of them done", flush=True)
        work = Queue(missing, args.results.resolve(), args.work_dirs.resolve(), args.jobs, args.budget, args.devices)
    with readable_errors(args.debug):
        work.run()
    if work.failed:
        sys.exit(f"error: {len(work.failed)} rows failed: {'; '.join(work.failed)}")
    if work.stopping == OUT_OF_TIME and work.without_progress and not (work.done or work.has_progress):
        sys.exit(
            f"error: the budget was too short for one epoch of {'; '.join(work.without_progress)}: nothing new is "
            "saved. Give a larger --budget, or fewer --jobs"
        )
    if work.stopping:
        print(f"{work.done} of {work.total} rows done; the same command goes on from here")


if __name__ == "__main__":
    main()
