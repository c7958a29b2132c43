"""Train the weight network of layer-wise mutual contrastive learning, apart from all that has a loss."""

from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkdprune.engine.resume import is_resumed
from mmkdprune.engine.wrappers import unwrapped
from mmkdprune.registry import HOOKS

STATE = "weight_network_optimizer"


@HOOKS.register_module()
class MetaStepHook(Hook):
    """Take the meta steps of a model that has a weight network (``meta_interval``, ``weight_gradient``).

    Every runner has one; it acts after the ordinary training step, on the same batch, in every ``meta_interval``-th
    iteration of an epoch, the first one included. The weight network has an SGD of its own with Nesterov momentum and
    the learning rate, momentum and weight decay of the run's first parameter group (momentum 0.9 where that has none).
    Its state is saved as ``checkpoint['mmkdprune']['weight_network_optimizer']`` and resumed.
    """

    def __init__(self) -> None:
        self.optimizer: torch.optim.SGD | None = None
        self._loaded: dict[str, Any] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Remember what the checkpoint holds; whether it is resumed or only initialises is known in before_train."""
        self._loaded = (checkpoint.get("mmkdprune") or {}).get(STATE)

    def before_train(self, runner: Runner) -> None:
        """Make the optimizer, and restore it when a run is resumed."""
        model: Any = unwrapped(runner.model)
        loaded, self._loaded, self.optimizer = self._loaded, None, None
        if not getattr(model, "meta_interval", 0):
            if hasattr(model, "weight_network"):
                runner.logger.warning(
                    "meta_interval=0: the weight network is not trained, so pairs of stages are weighted at random, by "
                    "its initial weights; the paper has meta_interval=50."
                )
            return
        settings: dict[str, Any] = _settings(runner.optim_wrapper)
        self.optimizer = torch.optim.SGD(
            model.weight_network.parameters(), nesterov=settings["momentum"] > 0, **settings
        )
        if loaded is not None and is_resumed(runner):
            self.optimizer.load_state_dict(loaded)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Take a meta step when it is due."""
        model: Any = unwrapped(runner.model)
        if self.optimizer is None or batch_idx % model.meta_interval:
            return
        data = model.data_preprocessor(data_batch, True)
        settings = _settings(runner.optim_wrapper)
        gradients = model.weight_gradient(
            data["inputs"], data["data_samples"], average=average_over_processes, **settings
        )
        take_step(self.optimizer, model.weight_network, gradients, settings)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Save the optimizer's state."""
        if self.optimizer is not None:
            checkpoint.setdefault("mmkdprune", {})[STATE] = self.optimizer.state_dict()


def take_step(
    optimizer: torch.optim.Optimizer, network: nn.Module, gradients: list[Tensor], settings: dict[str, float]
) -> None:
    """Move a network along given gradients.

    Args:
        optimizer (Optimizer): The network's optimizer.
        network (nn.Module): The network; its parameters keep no gradient.
        gradients (list[Tensor]): One a parameter.
        settings (dict[str, float]): New values for the optimizer's parameter group.
    """
    optimizer.param_groups[0].update(settings)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    for parameter in network.parameters():
        parameter.grad = None


def average_over_processes(tensors: list[Tensor]) -> None:
    """Replace tensors by their means over all processes.

    Args:
        tensors (list[Tensor]): Any shapes, the same in all processes.
    """
    from mmengine.dist import all_reduce_params, get_world_size

    if get_world_size() > 1:
        all_reduce_params(tensors, op="mean")


def _settings(optim_wrapper: OptimWrapper) -> dict[str, float]:
    group = optim_wrapper.param_groups[0]
    names = {"lr": 0.0, "momentum": 0.9, "weight_decay": 0.0}
    return {name: float(group.get(name, default)) for name, default in names.items()}
