import logging
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import MODEL_WRAPPERS
from mmengine.runner import FlexibleRunner, Runner
from testing_helpers import build_algorithm, build_model, network, run_two_processes
from torch import nn

from mmkdprune.engine import wrapping


class Plain(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.SyncBatchNorm(2)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return inputs


@MODEL_WRAPPERS.register_module(force=True)
class FakeFullyShardedWrapper(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


def runner(distributed=True, **config):
    """As much of a runner as wrapping needs."""
    return SimpleNamespace(
        distributed=distributed, cfg=Config(config or {"sync_bn": None}), logger=logging.getLogger("scale")
    )


def test_every_algorithm_in_two_processes(tmp_path):
    """With accumulated gradients, a scaled learning rate, averaged weights and BatchNorms that were to be SyncBN."""
    run_two_processes("ddp_scale.py", tmp_path)
    for rank in range(2):
        text = (tmp_path / f"{rank}.log").read_text()
        assert "Traceback" not in text


@pytest.mark.parametrize("wrapper", ["FakeFullyShardedWrapper", FakeFullyShardedWrapper])
def test_a_method_is_not_split_over_processes(tmp_path, wrapper):
    model = build_algorithm("MixSKD", tmp_path)
    config = Config({"type": wrapper})
    with pytest.raises(ValueError, match="MixSKD cannot be split over processes by FakeFullyShardedWrapper") as error:
        Runner.wrap_model(runner(), config, model)
    for advice in ("MMDistributedDataParallel", "mmkdprune train CONFIG --gpus NUMBER", "accumulative_counts"):
        assert advice in str(error.value)


def test_other_models_are_wrapped_as_ever():
    wrapped = Runner.wrap_model(runner(), Config({"type": "FakeFullyShardedWrapper"}), Plain())
    assert isinstance(wrapped, FakeFullyShardedWrapper)


@pytest.mark.parametrize("model", ["mmkdprune.HSAKD", "module"])
@pytest.mark.parametrize(
    ("strategy", "named"), [({"type": "DeepSpeedStrategy"}, " and its DeepSpeedStrategy"), (None, "")]
)
def test_flexible_runner_is_refused(tmp_path, model, strategy, named):
    if model == "module":
        model = build_algorithm("HSAKD-teacher", tmp_path)
    else:
        model = {"type": model}
    with pytest.raises(ValueError, match=f"HSAKD does not train with FlexibleRunner{named}: train it with MMDist"):
        FlexibleRunner(model, work_dir=str(tmp_path / "run"), strategy=strategy)
    assert not (tmp_path / "run").exists()


def test_flexible_runner_takes_other_models(tmp_path):
    built = FlexibleRunner(Plain(), work_dir=str(tmp_path), experiment_name="flexible", log_level="ERROR")
    assert built.model is not None


@pytest.mark.parametrize("sync_bn", ["torch", None])
def test_synchronised_norms_become_ordinary_ones_on_a_cpu(sync_bn, caplog, monkeypatch):
    monkeypatch.setattr(wrapping, "_is_on_cpu", lambda: True)
    made = runner(sync_bn=sync_bn)
    with caplog.at_level(logging.WARNING):
        wrapped = Runner.wrap_model(made, Config({"type": "FakeFullyShardedWrapper"}), Plain())
    assert "SyncBatchNorm" not in type(wrapped.module.norm).__name__
    assert "1 SyncBN layers: SyncBN needs GPUs" in caplog.text
    assert made.cfg.sync_bn == sync_bn


def test_synchronised_norms_stay_on_gpus(caplog, monkeypatch):
    monkeypatch.setattr(wrapping, "_is_on_cpu", lambda: False)
    model = nn.Sequential(nn.BatchNorm2d(2))
    wrapped = Runner.wrap_model(runner(sync_bn="torch"), Config({"type": "FakeFullyShardedWrapper"}), model)
    assert isinstance(wrapped.module[0], nn.SyncBatchNorm)
    assert not caplog.records


def test_meta_steps_and_synchronised_norms_exclude_each_other(monkeypatch):
    monkeypatch.setattr(wrapping, "_is_on_cpu", lambda: False)
    options = {"num_peers": 2, **network(8)}
    wrapper = Config({"type": "FakeFullyShardedWrapper"})
    model = build_model("mmkdprune.LayerwiseMCL", **options)
    monkeypatch.setattr(wrapping, "SHARDED", ())
    with pytest.raises(ValueError, match=r"LayerwiseMCL differentiates .* twice.* meta_interval=0"):
        Runner.wrap_model(runner(sync_bn="torch"), wrapper, model)
    without = build_model("mmkdprune.LayerwiseMCL", meta_interval=0, **options)
    assert Runner.wrap_model(runner(sync_bn="torch"), wrapper, without).module is without
