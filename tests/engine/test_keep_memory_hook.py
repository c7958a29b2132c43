import subprocess
import sys

import pytest
from testing_helpers import REPOSITORY

SCRIPT = """
import ctypes, sys
from mmkdprune.engine.hooks.keep_memory_hook import keep_freed_memory

def resident():
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024

if sys.argv[1] == "keep":
    assert keep_freed_memory()
import torch
blocks = [torch.ones(4, 2**20) for _ in range(12)]  # 16 MiB each
full = resident()
del blocks
print(full - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_stays_in_the_process():
    freed = {}
    for name in ("keep", "default"):
        command = [sys.executable, "-c", SCRIPT, name]
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        freed[name] = int(result.stdout.split()[-1])
    assert freed["default"] > 150  # MiB given back
    assert freed["keep"] < 50
