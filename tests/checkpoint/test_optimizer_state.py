import pytest
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn
from torch.optim import SGD, Adam, AdamW

from mmkdprune.checkpoint.optimizer_state import OptimizerMismatchError


def trained(kind, model=None, wrapper=OptimWrapper, **options):
    model = model or nn.Linear(3, 2)
    optimizer = wrapper(kind(model.parameters(), lr=0.1, **options))
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("saved", "resumed", "message"),
    [
        (SGD, Adam, "another optimizer than Adam: its state lacks its amsgrad, betas, eps and has dampening, nesterov"),
        (Adam, SGD, "another optimizer than SGD: its state lacks its dampening, nesterov and has amsgrad, betas"),
        (AdamW, Adam, "another optimizer than Adam: its state has decoupled_weight_decay=True"),
    ],
)
def test_other_optimizer_is_refused(saved, resumed, message):
    if "decoupled_weight_decay" not in AdamW([nn.Parameter(torch.ones(1))]).defaults and saved is AdamW:
        pytest.skip("the states of Adam and AdamW are alike in this PyTorch")
    with pytest.raises(OptimizerMismatchError, match=message) as refused:
        trained(resumed).load_state_dict(trained(saved).state_dict())
    assert "load_from=... without --resume" in str(refused.value)


def test_other_parameters_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    with pytest.raises(OptimizerMismatchError, match=r"has 4 parameters in 1 group\(s\), this run's SGD 2 in 1"):
        trained(SGD).load_state_dict(trained(SGD, model).state_dict())
    with pytest.raises(OptimizerMismatchError, match="holds no state of an optimizer"):
        trained(SGD).load_state_dict({})


@pytest.mark.parametrize(("kind", "options"), [(SGD, {"momentum": 0.9}), (Adam, {}), (AdamW, {"foreach": True})])
def test_same_optimizer_goes_on_also_with_other_switches_of_speed(kind, options):
    first = trained(kind, **options)
    torch.optim.lr_scheduler.MultiStepLR(first.optimizer, [1])  # adds initial_lr
    state = first.state_dict()
    del state["param_groups"][0]["foreach"]  # an older PyTorch
    second = trained(kind, **{**options, "foreach": False})
    second.load_state_dict(state)
    assert second.optimizer.state_dict()["state"].keys() == state["state"].keys()


def test_wrapper_of_mixed_precision_checks_too():
    with pytest.raises(OptimizerMismatchError):
        AmpOptimWrapper.load_state_dict(trained(Adam), trained(SGD).state_dict())
