"""The queue that trains rows: what it starts next, how it ends its runs, and what it writes down."""

import contextlib
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from quiet import is_timing
from result_files import last_figure, make_result, write_result
from row_progress import Progress
from row_runs import LOWEST_PRIORITY, Run, cfg_options, command_of, lower_priority, set_unvalidated_aside, tail
from rows import ROOT, Row
from run_folders import FolderInUseError, add_up, lock_of, mark_as_running, phase_of, saved_length

from mmkdprune.commands.pipeline import Phase
from mmkdprune.commands.run_log import read_validations
from mmkdprune.errors import UsageError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Exit codes of tools/train_pipeline.py, and of Python where the signal came before the tool could take it.
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
OUT_OF_TIME = "the budget is used up"
GRACE_S = 60  # for a stopped run to come to its end before it is killed
POLL_S = 0.2
RETRY_S = 10  # until a folder in which another process works is looked at again
PROGRESS_S = 300


class Queue:
    """Train rows, several at once, within a time.

    Args:
        rows: The rows to train, in order.
        results: Folder of the result files.
        work_dirs: Folder of the runs.
        jobs: Number of runs at once.
        budget: Seconds until all runs are stopped; None for no limit.
        devices: Numbers of the GPUs that runs are given in turn; empty for what PyTorch takes by itself.
        threads: Threads of each run.
        nice: Priority of the runs, from 0, that of other processes, to 19, the lowest.
    """

    def __init__(
        self,
        rows: list[Row],
        results: Path,
        work_dirs: Path,
        jobs: int,
        budget: float | None,
        devices: Sequence[str] = (),
        threads: int = 1,
        nice: int = LOWEST_PRIORITY,
    ) -> None:
        self.waiting = list(rows)
        self.total = len(rows)
        self.results, self.work_dirs, self.jobs = results, work_dirs, jobs
        self.devices, self.threads, self.nice = list(devices), threads, nice
        self.running: list[Run] = []
        self.failed: dict[str, str] = {}  # reason by row
        self.done = 0
        self.stopping = ""
        self.killing_at = math.inf
        self.has_progress = False
        self.without_progress: list[str] = []
        self.deadline = None if budget is None else time.monotonic() + budget
        self._trained: set[str] = set()  # rows whose last checkpoint has been seen
        self._locked: dict[str, float] = {}  # when to look again, by row
        self._paused_at: float | None = None
        self._progress = Progress(results)
        self._next_progress = 0.0

    def run(self) -> None:
        """Work until all rows are done, the time is up, or a signal comes."""
        previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}
        try:
            while self.running or (self.waiting and not self.stopping):
                if self.deadline is not None and time.monotonic() > self.deadline and not self.stopping:
                    self._stop(OUT_OF_TIME)
                self._yield_to_timing()
                if self._paused_at is None and not self.stopping:
                    self._fill()
                time.sleep(POLL_S)
                for run in list(self.running):
                    with self._reported(run.row):
                        self._look_after(run)
                self._report_progress()
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
            self._fail(row, str(error))

    def _fail(self, row: Row, reason: str, details: str = "") -> None:
        self.failed[str(row)] = reason
        print(f"{row}: failed, {reason}{details}", file=sys.stderr, flush=True)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.stopping and self.stopping != OUT_OF_TIME:
            self.killing_at = 0.0  # asked for twice
        else:
            self._stop(signal.Signals(number).name)

    def _stop(self, reason: str) -> None:
        self._go_on()
        if not self.stopping:
            print(f"stopping ({reason}): the runs end with their last checkpoints", flush=True)
            self.killing_at = time.monotonic() + GRACE_S
            for run in self.running:
                run.interrupt()
        self.stopping = reason

    def _kill(self) -> None:
        for run in self.running:
            run.signal(signal.SIGKILL)

    def _yield_to_timing(self) -> None:
        """Let all runs stand still while a benchmark measures time on this machine."""
        if is_timing() and not self.stopping:
            if self._paused_at is None:
                self._paused_at = time.monotonic()
                print("a benchmark measures time: the runs stand still", flush=True)
                for run in self.running:
                    run.signal(signal.SIGSTOP)
        else:
            self._go_on()

    def _go_on(self) -> None:
        if self._paused_at is not None:
            for run in self.running:
                run.signal(signal.SIGCONT)
                run.paused_s += time.monotonic() - self._paused_at
            self._paused_at = None

    def _fill(self) -> None:
        """Start rows while there is room for more."""
        while len(self.running) < self.jobs and (row := self._next()) is not None:
            self.waiting.remove(row)
            with self._reported(row):
                try:
                    self._start(row)
                except FolderInUseError as error:
                    if str(row) not in self._locked:
                        print(f"{row}: waits, {error}", flush=True)
                    self._locked[str(row)] = time.monotonic() + RETRY_S
                    self.waiting.insert(0, row)

    def _next(self) -> Row | None:
        """The first row that can be started; rows that it needs come before it."""
        for row in list(self.waiting):
            if time.monotonic() < self._locked.get(str(row), 0):
                continue
            try:
                if not self._waits(row):
                    return row
            except (OSError, ValueError) as error:
                self.waiting.remove(row)
                self._fail(row, str(error))
        return None  # or one that was only now put before the row that needs it, and is looked at next time

    def _waits(self, row: Row) -> bool:
        """Tell whether a row must wait for another one; one that nobody has asked for is put into the queue."""
        for needed in row.needs.values():
            if str(needed) in self.failed:
                raise UsageError(f"it needs {needed}, which failed")
            if str(needed) in self._trained:
                continue
            if str(needed) in {str(other) for other in (*self.waiting, *(run.row for run in self.running))}:
                return True
            if not self._is_trained(needed):
                self.waiting.insert(self.waiting.index(row), needed)
                self.total += 1
                print(f"{needed}: is trained for {row}, which learns from it", flush=True)
                return True
            self._trained.add(str(needed))
        return False

    def _is_trained(self, row: Row) -> bool:
        phase = self._phase(row)
        return phase.is_done() and phase.length[1] in read_validations(phase.work_dir)

    def _folder(self, row: Row) -> Path:
        return self.work_dirs / row.name / f"seed{row.seed}"

    def _checkpoints(self, row: Row) -> dict[str, Path]:
        """Files of the networks that a row learns from."""
        return {key: self._phase(needed).final_checkpoint for key, needed in row.needs.items()}

    def _phase(self, row: Row) -> Phase:
        return phase_of(row, self._folder(row), cfg_options(row, self._checkpoints(row)))

    def _start(self, row: Row) -> None:
        work_dir = self._folder(row)
        work_dir.mkdir(parents=True, exist_ok=True)
        lock = lock_of(work_dir)
        try:
            self._start_locked(row, work_dir, lock)
        except BaseException:
            lock.close()
            raise

    def _start_locked(self, row: Row, work_dir: Path, lock: IO) -> None:
        checkpoints = self._checkpoints(row)
        phase = phase_of(row, work_dir, cfg_options(row, checkpoints))
        set_unvalidated_aside(phase)
        command = command_of(row, work_dir, checkpoints)
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
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
        lower_priority(process.pid, self.nice)
        mark_as_running(work_dir, process.pid)
        run = Run(row, work_dir, phase, command, process, time.monotonic(), saved_length(phase), lock)
        self.running.append(run)
        self._locked.pop(str(row), None)
        print(f"{row}: started, output in {run.log}", flush=True)

    def _look_after(self, run: Run) -> None:
        pid, status, usage = os.wait4(run.process.pid, os.WNOHANG)
        if pid == 0:
            return
        self.running.remove(run)
        run.lock.close()
        run.process.returncode = os.waitstatus_to_exitcode(status)
        self._next_progress = 0.0
        spent = add_up(run.work_dir, time.monotonic() - run.started - run.paused_s, usage.ru_maxrss // 1024)
        if run.process.returncode == 0:
            self._write_down(run, spent)
        elif self.stopping and run.process.returncode in STOPPED:
            saved = saved_length(run.phase)
            if saved > run.saved_before:
                self.has_progress = True
            else:
                self.without_progress.append(str(run.row))
            print(f"{run.row}: stopped, {saved} {run.phase.length[0]}s are saved", flush=True)
        else:
            reason = f"exit code {run.process.returncode}, see {run.log}"
            self._fail(run.row, reason, f"\n{tail(run.log)}")

    def _write_down(self, run: Run, spent: dict[str, float]) -> None:
        command = shlex.join(["python", *run.command]).replace(str(self.work_dirs), "work_dirs/rows")
        result = make_result(run.row, run.phase, command, self.jobs, self.threads, **spent)
        file = self.results / run.row.file_name
        kept = ""
        if file.exists():  # it was trained for another row's sake
            kept = f", {file.name} stays as it is"
        else:
            write_result(file, result)
        self.done += 1
        print(f"{run.row}: {last_figure(result)} ({self.done} of {self.total}){kept}", flush=True)

    def _report_progress(self) -> None:
        if time.monotonic() >= self._next_progress:
            self._next_progress = time.monotonic() + PROGRESS_S
            running = [
                (run.row, saved_length(run.phase), run.saved_before, run.phase.length[1], run.started)
                for run in self.running
            ]
            print(self._progress.line(self.done, running, self.waiting, self.jobs), flush=True)
