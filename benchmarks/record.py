"""How the timing benchmarks show their rows and write them down."""

import json
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from quiet import keep_quiet

import mmkdprune
from mmkdprune.hardware import hardware


def prepare(out: Path | None) -> None:
    """End before anything is measured when the result file exists already; else keep the machine quiet from now on."""
    if out is not None and out.exists():
        sys.exit(f"error: {out} exists already: choose another --out")
    keep_quiet()


def seconds(step: Callable[[], Any], device: torch.device) -> float:
    """Time one step, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def resident(field: str) -> int:
    """Bytes that this process has in memory (``VmRSS``), or had at most (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def forget_peak() -> int:
    """Let the peak start again at the present size, which is returned, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def show(rows: list[dict]) -> None:
    """Print the rows as a table."""
    print(" | ".join(rows[0]))
    for row in rows:
        print(" | ".join(str(value) for value in row.values()))


def write(out: Path | None, device: torch.device, rows: list[dict], **settings: Any) -> None:
    """Write the rows as JSON, with command, hardware, versions and the benchmark's own settings."""
    if out is None:
        return
    record = {
        "command": "python " + " ".join(sys.argv),
        "date": date.today().isoformat(),
        "hardware": hardware(device),
        "versions": {"torch": torch.__version__, "mmkdprune": mmkdprune.__version__},
        **settings,
        "rows": rows,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(record, indent=2) + "\n")
