import pytest
import torch
from mmengine.model import BaseModule
from torch import nn

from mmkdprune.checkpoint.finite import NonFiniteWeightsError, non_finite_keys, refuse_non_finite
from mmkdprune.models.algorithms.teacher import FrozenTeacher


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64])
def test_one_value_is_enough(network, value, dtype):
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    assert non_finite_keys(state) == []
    state["1.running_var"][2] = value
    assert non_finite_keys({**state, "other": "text"}) == ["1.running_var"]
    with pytest.raises(NonFiniteWeightsError, match=r"a\.pth holds .* 1 of 7 tensors \(1\.running_var\).*diverged"):
        refuse_non_finite(state, "a.pth", network)


def test_values_that_are_infinite_by_design(network):
    network.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    refuse_non_finite(state, "a.pth", network)
    state["mask"][0] = float("nan")
    assert non_finite_keys(state, network.state_dict()) == ["mask"]
    assert non_finite_keys(network.state_dict()) == ["mask"]


def test_pretrained_weights_and_teachers(tmp_path):
    class Part(BaseModule):
        def __init__(self, init_cfg=None):
            super().__init__(init_cfg)
            self.fc = nn.Linear(2, 2)

    state = Part().state_dict()
    state["fc.bias"][0] = float("nan")
    file = str(tmp_path / "a.pth")
    torch.save({"state_dict": {**state, "another.part": torch.tensor([float("nan")])}}, file)
    with pytest.raises(NonFiniteWeightsError, match=r"fc\.bias"):
        Part({"type": "Pretrained", "checkpoint": file}).init_weights()
    with pytest.raises(NonFiniteWeightsError, match=r"fc\.bias"):
        FrozenTeacher(Part(), file).load()
    state["fc.bias"][0] = 0
    torch.save({"state_dict": {**state, "another.part": torch.tensor([float("nan")])}}, file)
    FrozenTeacher(Part(), file).load()
