import re
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from testing_helpers import REPOSITORY

from mmkdprune.engine import speed
from mmkdprune.engine.hooks import TF32Hook
from mmkdprune.engine.speed import DEFAULTS, SpeedError, apply_speed, choose_speed, use_default_speed

PLAIN = REPOSITORY / "configs/mixskd/plain_resnet20_1xb64-20e_digits-16px.py"


def config(**switches) -> dict:
    return {"optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1}}, "speed": switches}


def line(lines: list[str], switch: str) -> str:
    (found,) = [text for text in lines if text.startswith(f"speed.{switch}:")]
    return found.removeprefix(f"speed.{switch}: ")


@pytest.fixture
def gpu(monkeypatch):
    """Pretend that there is a GPU of this compute capability."""

    def pretend(major: int) -> None:
        monkeypatch.setattr(speed, "get_device", lambda: "cuda")
        monkeypatch.setattr(speed, "_capability", lambda: (major, f"GPU {major}.0"))

    return pretend


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr(speed, "get_device", lambda: "cpu")


def test_the_base_file_holds_the_defaults():
    base = Config.fromfile(REPOSITORY / "configs/_base_/speed.py")
    assert list(base) == ["speed"]
    assert {"compile": False, **base.speed} == DEFAULTS
    assert set(speed._SWITCHES) == set(DEFAULTS)


def test_a_config_without_the_field_is_left_as_it_is():
    untouched = Config.fromfile(PLAIN)
    before = untouched.pretty_text
    assert apply_speed(untouched) == []
    assert untouched.pretty_text == before


def test_everything_on_a_gpu(gpu):
    gpu(8)
    cfg = config(**{**DEFAULTS, "compile": {"mode": "reduce-overhead"}})
    lines = apply_speed(cfg)
    assert "speed" not in cfg
    assert cfg["default_hooks"]["channels_last"] == {"type": "mmkdprune.ChannelsLastHook"}
    assert cfg["default_hooks"]["runtime_info"] == {"type": "mmkdprune.DeferredRuntimeInfoHook"}
    assert cfg["default_hooks"]["tf32"] == {"type": "mmkdprune.TF32Hook"}
    wrapper = cfg["optim_wrapper"]
    assert (wrapper["type"], wrapper["dtype"]) == ("AmpOptimWrapper", "bfloat16")
    assert wrapper["loss_scale"] == {"enabled": False}
    assert wrapper["optimizer"]["fused"] is True
    assert cfg["env_cfg"] == {"dist_cfg": {"backend": "nccl"}, "cudnn_benchmark": True}
    assert cfg["compile"] == {"mode": "reduce-overhead"}
    for switch in set(DEFAULTS) - {"batched_data", "keep_memory"}:
        assert line(lines, switch).startswith("on"), switch
    assert apply_speed(cfg) == []  # a config that is dumped and read again


def test_without_a_gpu_the_log_says_what_is_off_and_why(cpu):
    cfg = config(**DEFAULTS)
    lines = apply_speed(cfg)
    for switch in ("amp", "cudnn_benchmark", "tf32"):
        assert line(lines, switch) == "off (no CUDA GPU)"
    assert line(lines, "compile") == "off (not asked for)"
    assert "type" not in cfg["optim_wrapper"]
    assert "env_cfg" not in cfg
    assert set(cfg["default_hooks"]) == {"channels_last", "keep_memory", "runtime_info"}


@pytest.mark.parametrize(
    ("major", "wanted", "dtype"), [(9, "auto", "bfloat16"), (7, "auto", "float16"), (7, "float16", "float16")]
)
def test_type_of_mixed_precision(gpu, major, wanted, dtype):
    gpu(major)
    cfg = config(amp=wanted)
    assert dtype in line(apply_speed(cfg), "amp")
    assert cfg["optim_wrapper"]["dtype"] == dtype
    assert (cfg["optim_wrapper"]["loss_scale"] == "dynamic") is (dtype == "float16")


def test_what_the_gpu_cannot_do(gpu):
    gpu(6)
    lines = apply_speed(config(amp="auto", tf32=True))
    assert line(lines, "amp") == "off (GPU 6.0 has no tensor cores)"
    assert line(lines, "tf32") == "off (GPU 6.0 has no TF32)"
    with pytest.raises(SpeedError, match=r"GPU 6.0 does not compute in bfloat16: set speed.amp='float16'"):
        apply_speed(config(amp="bfloat16"))


@pytest.mark.parametrize(
    ("settings", "switch", "message"),
    [
        ({"optim_wrapper.type": "AmpOptimWrapper", "optim_wrapper.dtype": "float16"}, "amp", "AmpOptimWrapper stays"),
        ({"optim_wrapper.type": "ApexOptimWrapper"}, "amp", r"off \(the config's ApexOptimWrapper stays"),
        ({"optim_wrapper.optimizer.fused": False}, "fused_optimizer", r"off .*fused=False stays"),
        ({"optim_wrapper.optimizer.foreach": True}, "fused_optimizer", r"off .*foreach=True stays"),
        ({"optim_wrapper.optimizer.type": "RMSprop"}, "fused_optimizer", r"off \(RMSprop has no fused form on cuda"),
        ({"optim_wrapper.optimizer.type": "mmpretrain.Lamb"}, "fused_optimizer", "off .*no fused form"),
        ({"default_hooks.runtime_info.type": "OwnHook"}, "deferred_logging", "off .*OwnHook.* stays"),
        ({"randomness.deterministic": True}, "cudnn_benchmark", r"off \(randomness.deterministic=True\)"),
        ({"compile": {"mode": "max-autotune"}}, "compile", r"on .*max-autotune.* stays"),
        ({"custom_hooks": [{"type": "mmkdprune.ChannelsLastHook"}]}, "channels_last", "on .*in the config already"),
    ],
)
def test_what_the_config_says_itself_is_kept_and_reported(gpu, settings, switch, message):
    gpu(8)
    value = {"amp": "bfloat16"}.get(switch, True)
    cfg = Config(config(**{switch: value}))
    cfg.merge_from_dict(settings)
    before = {name: setting for name, setting in cfg.to_dict().items() if name != "speed"}
    lines = apply_speed(cfg)
    assert re.search(message, line(lines, switch))
    assert {"default_hooks": {}, **cfg.to_dict()} == {"default_hooks": {}, **before}


def test_what_is_replaced_is_reported(gpu):
    gpu(8)
    cfg = {**config(cudnn_benchmark=True), "env_cfg": {"cudnn_benchmark": False}, "find_unused_parameters": True}
    lines = apply_speed(cfg)
    assert line(lines, "cudnn_benchmark") == "on (env_cfg.cudnn_benchmark was False)"
    assert cfg["env_cfg"]["cudnn_benchmark"] is True
    assert "find_unused_parameters=True stays" in lines[-1]


def test_old_pytorch_has_no_fused_form(cpu, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.3.1")
    assert line(apply_speed(config(fused_optimizer=True)), "fused_optimizer").startswith("off (PyTorch 2.3.1 has no")


def test_of_a_network_that_is_only_tested(cpu):
    cfg = config(**{**DEFAULTS, "amp": "bfloat16", "compile": True})
    lines = apply_speed(cfg, training=False)
    assert cfg["optim_wrapper"] == {"optimizer": {"type": "SGD", "lr": 0.1}}
    assert not [text for text in lines if "amp" in text or "compile" in text or "fused" in text]
    assert "compile" not in cfg


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        ({"chanels_last": True}, r"unknown switch\(es\) \['chanels_last'\]; known: channels_last, amp"),
        ({"tf32": "yes"}, "speed.tf32 must be True or False, got 'yes'"),
        ({"amp": "fp8"}, "speed.amp must be one of False, 'auto', 'bfloat16', 'float16', got 'fp8'"),
        ({"amp": True}, "speed.amp must be one of"),
        ({"compile": "fast"}, r"speed.compile must be True, False or a dict"),
        ({"amp": "bfloat16"}, "needs a CUDA GPU and none is visible: set speed.amp='auto'"),
    ],
)
def test_bad_input(cpu, switches, message):
    with pytest.raises(SpeedError, match=message):
        apply_speed(config(**switches))
    with pytest.raises(SpeedError, match="speed must be a dict of switches"):
        apply_speed({"speed": True})
    with pytest.raises(SpeedError, match="speed must be a dict of switches"):
        use_default_speed({"speed": True})


def test_defaults_leave_what_the_config_names():
    cfg = config(tf32=False, compile=True)
    use_default_speed(cfg)
    assert cfg["speed"] == {**DEFAULTS, "tf32": False, "compile": True}


def test_off_takes_away_what_the_config_has():
    cfg = Config.fromfile(PLAIN)  # its hooks and the default runtime's are speed-ups
    cfg.merge_from_dict({"default_hooks.keep_memory": {"type": "mmkdprune.KeepMemoryHook"}})
    cfg.merge_from_dict({"custom_hooks": [*cfg.custom_hooks, {"type": "EMAHook"}]})
    cfg.optim_wrapper.optimizer.fused = True
    cfg.speed = False
    lines = apply_speed(cfg)
    assert "speed" not in cfg
    assert [hook.type for hook in cfg.custom_hooks] == ["EMAHook"]
    assert cfg.default_hooks.runtime_info == {"type": "RuntimeInfoHook"}
    assert "keep_memory" not in cfg.default_hooks
    assert "fused" not in cfg.optim_wrapper.optimizer
    for switch in ("channels_last", "fused_optimizer", "deferred_logging", "keep_memory", "tf32"):
        assert line(lines, switch) == "off (speed=False)"
    assert apply_speed({"speed": False})  # of a config that has none of them


@pytest.mark.parametrize(
    ("wish", "speed"),
    [(None, {"tf32": False}), (False, False), (True, {**DEFAULTS, "tf32": False})],
)
def test_the_command_line_chooses(wish, speed):
    cfg = config(tf32=False)
    choose_speed(cfg, wish)
    assert cfg["speed"] == speed


def test_the_command_line_turns_on_what_the_config_turns_off():
    cfg = {"speed": False}
    choose_speed(cfg, True)
    assert cfg["speed"] == DEFAULTS


def test_any_runner_understands_the_field(tmp_path, cpu):
    """Also one that a user's own script builds."""
    cfg = Config.fromfile(PLAIN)
    cfg.work_dir, cfg.experiment_name = str(tmp_path), tmp_path.name
    cfg.speed = {"fused_optimizer": True, "channels_last": True, "compile": {"backend": "eager"}}

    class OwnRunner(Runner):
        pass

    runner = OwnRunner.from_cfg(cfg)
    assert type(runner) is OwnRunner
    assert "speed" in cfg  # the caller's config is the caller's
    assert "speed" not in runner.cfg
    assert runner.cfg.optim_wrapper.optimizer.fused is True
    assert runner.cfg.compile == {"backend": "eager"}
    (text,) = [path.read_text() for path in tmp_path.glob("*/*.log")]
    assert "speed.fused_optimizer: on (SGD)" in text


def test_tf32_for_the_time_of_the_run(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    before = torch.get_float32_matmul_precision()
    hook = TF32Hook()
    hook.before_run(SimpleNamespace())
    assert torch.get_float32_matmul_precision() == "high"
    hook.after_run(SimpleNamespace())
    assert torch.get_float32_matmul_precision() == before
    hook.after_run(SimpleNamespace())  # a run that ended before it began


def test_small_images_are_batched_and_large_ones_are_not(cpu):
    small, large = Config.fromfile(PLAIN), Config.fromfile(PLAIN.parent / "plain_resnet50_8xb16-305e_in1k.py")
    for cfg in (small, large):
        cfg.speed = {"batched_data": True}
    lines = [text for text in apply_speed(small) if "batched_data" in text]
    assert lines[0] == "speed.batched_data: train_dataloader: batched"
    assert small.train_dataloader.dataset.type == small.val_dataloader.dataset.type == "mmkdprune.BatchedDataset"
    assert any("train_dataloader: as it was (ImageNet is not known to be small" in text for text in apply_speed(large))
    assert large.train_dataloader.dataset.type == "ImageNet"
