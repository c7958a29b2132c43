"""What is inside a wrapped model."""

from typing import cast

from mmengine.model import BaseModel, is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> BaseModel:
    """The model itself, without ``DistributedDataParallel`` around it.

    Args:
        model (nn.Module): A runner's model, wrapped or not.

    Returns:
        BaseModel: What was wrapped.
    """
    return cast(BaseModel, model.module if is_model_wrapper(model) else model)
