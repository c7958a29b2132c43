from unittest.mock import MagicMock

import pytest
import torch

from mmkdprune.engine.hooks import MetaStepHook


class Model(torch.nn.Module):
    """Its weight network's gradient is 1 everywhere; it counts how often it was asked."""

    def __init__(self, interval=3):
        super().__init__()
        self.meta_interval = interval
        self.weight_network = torch.nn.Linear(2, 1).requires_grad_(False)
        self.asked = []

    def data_preprocessor(self, data, training):
        assert training
        return data

    def weight_gradient(self, inputs, data_samples, average, **settings):
        self.asked.append((inputs, settings))
        return [torch.ones_like(parameter) for parameter in self.weight_network.parameters()]


def make_runner(model, iterations=0, **group):
    runner = MagicMock(model=model, iter=iterations)
    runner.optim_wrapper.param_groups = [{"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0, **group}]
    return runner


def run(hook, runner, iterations):
    hook.before_train(runner)
    for index in iterations:
        hook.after_train_iter(runner, index, {"inputs": index, "data_samples": []})


def test_steps_are_taken_at_the_first_iteration_and_at_the_interval():
    model, hook = Model(), MetaStepHook()
    run(hook, make_runner(model), [*range(7), *range(4)])  # two epochs
    assert [inputs for inputs, _ in model.asked] == [0, 3, 6, 0, 3]
    assert all(parameter.grad is None for parameter in model.weight_network.parameters())


def test_steps_are_those_of_sgd_with_the_present_learning_rate():
    model, hook = Model(interval=1), MetaStepHook()
    runner = make_runner(model, weight_decay=0.01)
    reference = torch.nn.Linear(2, 1)
    reference.load_state_dict(model.weight_network.state_dict())
    optimizer = torch.optim.SGD(reference.parameters(), 0.1, 0.9, weight_decay=0.01, nesterov=True)
    hook.before_train(runner)
    for index, lr in enumerate((0.1, 0.1, 0.05)):
        runner.optim_wrapper.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] = lr
        hook.after_train_iter(runner, index, {"inputs": index, "data_samples": []})
        optimizer.zero_grad()
        sum(parameter.sum() for parameter in reference.parameters()).backward()
        optimizer.step()
    for own, other in zip(model.weight_network.parameters(), reference.parameters(), strict=True):
        assert torch.equal(own, other)
    assert model.asked[2][1] == {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}


@pytest.mark.parametrize("resumed", [True, False])
def test_momentum_is_saved_and_resumed(resumed):
    model, hook, checkpoint = Model(interval=1), MetaStepHook(), {}
    run(hook, make_runner(model), range(3))
    hook.before_save_checkpoint(None, checkpoint)
    again, other = MetaStepHook(), Model(interval=1)
    again.after_load_checkpoint(None, checkpoint)
    again.before_train(make_runner(other, iterations=3 if resumed else 0))
    assert (len(again.optimizer.state) > 0) == resumed
    if resumed:
        for own, theirs in zip(again.optimizer.state.values(), hook.optimizer.state.values(), strict=True):
            assert torch.equal(own["momentum_buffer"], theirs["momentum_buffer"])


def test_optimizers_without_momentum_and_models_without_meta_step():
    model, hook = Model(interval=1), MetaStepHook()
    runner = make_runner(model)
    runner.optim_wrapper.param_groups = [{"lr": 0.1}]  # Adam, say
    run(hook, runner, range(1))
    assert model.asked[0][1] == {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
    for other in (torch.nn.Linear(2, 2), Model(interval=0)):
        hook, checkpoint = MetaStepHook(), {}
        run(hook, make_runner(other), range(3))
        hook.before_save_checkpoint(None, checkpoint)
        assert not checkpoint
