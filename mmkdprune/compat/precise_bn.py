"""Let MMPretrain's ``PreciseBNHook`` work with loaders whose batches are made by a batch sampler of their own.

PyTorch's loaders do not tell the batch size then, and the hook, which some stock configs have (RegNet's), would end the
run with a ``TypeError`` after the first epoch, before its checkpoint is saved.
"""

from collections.abc import Callable, Iterator
from typing import Any

from .patching import patch


class _SizedLoader:
    """As much of a loader as the hook needs."""

    def __init__(self, loader: Any, batch_size: int) -> None:
        self.loader, self.batch_size = loader, batch_size

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.loader)


def _with_batch_size(original: Callable) -> Callable:
    def update_bn_stats(model: Any, loader: Any, *args: Any, **kwargs: Any) -> None:
        if loader.batch_size is None:
            samplers = (loader.batch_sampler, loader.sampler)
            size = next((sampler.batch_size for sampler in samplers if hasattr(sampler, "batch_size")), None)
            loader = loader if size is None else _SizedLoader(loader, size)
        original(model, loader, *args, **kwargs)

    return update_bn_stats


def patch_precise_bn() -> None:
    """Replaces MMPretrain's ``update_bn_stats``, which its hook calls."""
    from mmpretrain.engine.hooks import precise_bn_hook

    patch(precise_bn_hook, "update_bn_stats", _with_batch_size)
