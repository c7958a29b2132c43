"""What is inside a wrapped model."""

from typing import cast

from mmengine.model import BaseModel, BaseTTAModel, is_model_wrapper
from torch import nn


def unwrapped(model: nn.Module) -> BaseModel:
    """The model itself, without ``DistributedDataParallel`` or test-time augmentation around it.

    Args:
        model (nn.Module): A runner's model, wrapped or not.

    Returns:
        BaseModel: What was wrapped.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module  # type: ignore[assignment]
    return cast(BaseModel, model)
