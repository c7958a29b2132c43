import torch
from mmengine.optim import AmpOptimWrapper

import mmkdprune  # noqa: F401


def test_a_run_with_loss_scale_goes_on_from_one_without():
    """What bfloat16 saved, float16 resumes."""
    wrapper = AmpOptimWrapper.__new__(AmpOptimWrapper)
    seen = []
    parameter = torch.nn.Parameter(torch.zeros(1))
    wrapper.optimizer = torch.optim.SGD([parameter], 0.1)
    wrapper.base_param_settings = None
    wrapper.loss_scaler = type("Scaler", (), {"load_state_dict": lambda self, state: seen.append(state)})()
    state = {**wrapper.optimizer.state_dict(), "loss_scaler": {}}
    wrapper.load_state_dict(state)
    assert seen == []
    wrapper.load_state_dict({**wrapper.optimizer.state_dict(), "loss_scaler": {"scale": 2.0}})
    assert seen == [{"scale": 2.0}]
