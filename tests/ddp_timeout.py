"""A process that hangs while the other one waits for it; started as a script by test_distributed.py."""

import os
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as torch_dist
from mmengine.config import Config

from mmkdprune.compat.distributed import explain_timeout, prepare_launch

TIMEOUT = 2


def main(rank: int, folder: Path) -> None:
    """Meet once; then one process sleeps, and the other one gives up."""
    store = folder / "store"
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port(folder, rank))
    config = Config({"env_cfg": {"dist_cfg": {"timeout": 60}}})
    prepare_launch(config, "pytorch")
    torch_dist.barrier()  # both are there, however long their imports took
    config.env_cfg.dist_cfg.timeout = TIMEOUT
    group = torch_dist.new_group(backend="gloo", timeout=timedelta(seconds=TIMEOUT))
    if rank == 1:
        while not store.exists():
            time.sleep(0.05)
        os._exit(0)
    started = time.monotonic()
    with pytest.raises(RuntimeError) as given_up:
        torch_dist.all_reduce(torch.ones(1), group=group)
    store.touch()
    message = explain_timeout(given_up.value, config)
    assert f"no answer from another process for {TIMEOUT} seconds" in (message or ""), given_up.value
    assert time.monotonic() - started >= TIMEOUT - 0.1
    os._exit(0)


def port(folder: Path, rank: int) -> int:
    """A free port, which the first process finds and writes down."""
    file = folder / "port"
    if rank == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            (folder / "port.new").write_text(str(probe.getsockname()[1]))
        (folder / "port.new").rename(file)
    while not file.exists():
        time.sleep(0.05)
    return int(file.read_text())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
