import shutil

import pytest
import torch
import toy_run
from mmengine.runner import Runner

from mmkdprune.engine import compilation
from mmkdprune.engine.compilation import compile_options


@pytest.fixture
def compiled(monkeypatch):
    """What is handed to ``torch.compile``, which is left out."""
    calls = []

    def fake(model, *, backend=None, mode=None, **options):
        options |= {} if backend is None else {"backend": backend}
        calls.append((model, options))
        return model

    monkeypatch.setattr(torch, "compile", fake)
    return calls


@pytest.mark.parametrize(
    ("setting", "options"), [(None, None), (False, None), (True, {}), ({"mode": "default"}, {"mode": "default"})]
)
def test_setting(setting, options):
    assert compile_options(setting) == options


def test_other_settings_are_refused():
    with pytest.raises(ValueError, match=r"compile must be True, False or a dict .* got 'yes'"):
        compile_options("yes")
    with pytest.raises(ValueError, match=r"unknown argument\(s\) \['modus'\]; torch.compile knows .*fullgraph.*mode"):
        compile_options({"modus": "default"})


@pytest.mark.parametrize("setting", [True, {"backend": "eager"}])
def test_any_other_model_is_compiled_as_mmengine_does_it(tmp_path, compiled, setting):
    runner = toy_run.make_runner(tmp_path, length=1, compile=setting)
    step = runner.model.train_step
    runner.train()
    assert compiled == [(step, {} if setting is True else setting)]


def test_a_model_may_offer_a_part_of_its_own(tmp_path, compiled, monkeypatch):
    parts = []
    monkeypatch.setattr(
        toy_run.ToyModel, "compile_step", lambda self, **options: parts.append(options) or "body", raising=False
    )
    runner = toy_run.make_runner(tmp_path, length=1, compile={"backend": "eager"}, log_level="INFO")
    runner.train()
    assert parts == [{"backend": "eager"}]
    assert not compiled
    (text,) = [path.read_text() for path in tmp_path.glob("*/*.log")]
    assert 'Model has been "compiled": body.' in text


def test_a_missing_compiler_is_named_before_training(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler and there is no g\+\+"):
        compilation._check_compiler({}, "cpu")
    compilation._check_compiler({}, "cuda")
    compilation._check_compiler({"backend": "eager"}, "cpu")


def test_the_patch_is_there_once():
    assert Runner._maybe_compile.__mmkdprune_patch__
    assert Runner.from_cfg.__func__.__mmkdprune_patch__
