"""Runs with a target, and with one ranking of all filters: what they log, end with, save and resume."""

import logging
import random

import pytest
import toy_run
from toy_pruning_run import load, parameters, pruning_hook, settings, train

from mmkdprune.engine.pruning.builder import PrunerBuilder
from mmkdprune.engine.pruning.run import first_image_shape, padded_image_shape

pytestmark = pytest.mark.usefixtures("one_thread")
TARGET = {"rate": None, "round_to": 2, "example_input": (3, 8, 8)}
LATENCY = {**TARGET, "target": {"latency": 0.6, "batch_size": 2}}


@pytest.fixture
def measured(monkeypatch):
    """Calls of the clock."""
    calls = []

    def timer(network, images):
        calls.append(images.shape)
        return parameters(network)

    monkeypatch.setattr(PrunerBuilder, "timer", staticmethod(timer))
    return calls


@pytest.mark.parametrize(
    "pruner",
    [
        {"ranking": "global"},
        {"ranking": "global", "bn_policy": "scale", "criterion": "taylor"},
        {**TARGET, "target": {"macs": 0.6}, "ranking": "global", "round_to": 1},
        LATENCY,
    ],
    ids=["global", "taylor", "global with a target", "latency"],
)
def test_resumed_run_is_bit_exact(tmp_path, pruner, measured):
    whole, rest = toy_run.train_twice(tmp_path, length=6, stop_after=17, **settings(pruner=pruner))
    first, second = (load(tmp_path / name / "epoch_6.pth")["mmkdprune"]["pruning"] for name in ("whole", "parts"))
    toy_run.assert_equal(first, second)
    reports = [pruning_hook(runner).pruner.report() for runner in (whole, rest)]
    assert reports[0] == reports[1]
    assert reports[0]["pruned"] > 0
    if "target" not in pruner:
        assert reports[0]["pruned"] == reports[0]["filters"] * 2 // 5


def test_nothing_is_measured_again_in_a_resumed_run(tmp_path, measured, monkeypatch):
    common = settings(pruner=LATENCY)
    toy_run.make_runner(tmp_path, length=2, **common).train()
    assert set(measured) == {(2, 3, 8, 8)}
    before = load(tmp_path / "epoch_2.pth")["mmkdprune"]["pruning"]["budget"]
    monkeypatch.setattr(PrunerBuilder, "timer", None)
    runner = toy_run.make_runner(tmp_path, length=4, resume=True, **common)
    runner.train()
    assert pruning_hook(runner).builder.budget.state_dict() == before
    assert load(tmp_path / "epoch_4.pth")["mmkdprune"]["pruning"]["budget"] == before
    other = settings(pruner={**LATENCY, "target": {"latency": 0.5}})
    with pytest.raises(ValueError, match=r"pruner\.target is {'latency': 0.5} here but was"):
        toy_run.make_runner(tmp_path, length=6, resume=True, **other).train()


@pytest.mark.parametrize(
    ("pruner", "lines"),
    [
        (LATENCY, [r"ms for 2 images of 3 x 8 x 8 on", r"measured with a spread of 0.0%"]),
        (
            {**TARGET, "target": {"macs": 0.6}, "ranking": "global", "round_to": 1},
            ["takes as many filters at every step as meet the target", "will be left in the compact network, of 60.0%"],
        ),
    ],
    ids=["latency", "global"],
)
def test_what_is_left_is_said(tmp_path, pruner, lines, measured, caplog):
    with caplog.at_level(logging.INFO):
        runner = toy_run.make_runner(tmp_path, **settings(pruner=pruner, length=2, log_level="INFO"))
        runner.logger.addHandler(caplog.handler)
        runner.train()
    text = caplog.text
    assert "Target: backbone, compact, will have " in text
    assert all(line in text for line in lines)


def test_a_busy_machine_is_said_before_training(tmp_path, monkeypatch):
    draw = random.Random(0).uniform
    monkeypatch.setattr(PrunerBuilder, "timer", staticmethod(lambda network, images: draw(0.2, 2)))
    with pytest.raises(ValueError, match="let nothing else run on this machine"):
        train(tmp_path, pruner=LATENCY, length=2)


def test_shape_of_an_image(tmp_path):
    runner = toy_run.make_runner(tmp_path, **settings())
    assert first_image_shape(runner) is None  # six numbers are no image
    assert padded_image_shape(runner) is None
