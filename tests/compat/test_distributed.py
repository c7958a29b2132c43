from datetime import timedelta

import pytest
import torch
from mmengine.config import Config
from testing_helpers import run_two_processes

from mmkdprune.compat import distributed


@pytest.fixture
def torchrun(monkeypatch):
    """The environment of the second of two processes."""
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "h"}
    for name, value in {**variables, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("settings", "minutes"), [({}, 10), ({"timeout": None}, 10), ({"timeout": 60}, 1), ({"backend": "nccl"}, 10)]
)
def test_timeout_is_ten_minutes_unless_set(settings, minutes, torchrun, monkeypatch):
    calls = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(distributed, "get_device", lambda: "cpu")
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **options: calls.append((args, options)))
    config = Config({"env_cfg": {"dist_cfg": settings}})
    distributed.prepare_launch(config, "pytorch")
    assert calls == [(("gloo",), {"timeout": timedelta(minutes=minutes)})]
    assert config.env_cfg.dist_cfg.timeout == 60 * minutes  # for MMEngine, which sets up the GPUs
    assert config.model_wrapper_cfg.device_ids is None


@pytest.mark.parametrize("seconds", [0, -1, "60", True, float("inf")])
def test_timeout_that_is_none(seconds, torchrun):
    with pytest.raises(ValueError, match="timeout must be a positive number of seconds, got"):
        distributed.prepare_launch(Config({"env_cfg": {"dist_cfg": {"timeout": seconds}}}), "pytorch")


def test_process_that_hangs_ends_the_other(tmp_path):
    run_two_processes("ddp_timeout.py", tmp_path)


def test_other_errors_are_not_called_a_timeout():
    assert distributed.explain_timeout(RuntimeError("Timed out"), Config()) is None


def test_more_processes_than_gpus(torchrun, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(distributed, "get_device", lambda: "cuda")
    with pytest.raises(ValueError, match="2 processes were started on this machine and 1 GPU is visible") as error:
        distributed.prepare_launch(Config(), "pytorch")
    for text in ("LOCAL_RANK=1", "start at most 1", 'CUDA_VISIBLE_DEVICES=""'):
        assert text in str(error.value)
    with pytest.raises(ValueError, match=r"--launcher slurm needs SLURM_PROCID .*`bash tools/slurm_train.sh"):
        distributed.prepare_launch(Config(), "slurm")
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("SLURM_LOCALID", "3")
    with pytest.raises(ValueError, match=r"4 or more processes .* SLURM_LOCALID=3") as error:
        distributed.prepare_launch(Config(), "slurm")
    assert "CPU" not in str(error.value)
    # The first process has its GPU, and MMEngine does the rest.
    monkeypatch.setenv("LOCAL_RANK", "0")
    config = Config()
    distributed.prepare_launch(config, "pytorch")
    assert "model_wrapper_cfg" not in config
