"""Keep the gradient buckets of ``DistributedDataParallel`` in step with the parameters they were laid out for.

The wrapper looks at its parameters once, when it is built: which of them are trained, and how each lies in memory. What
changes afterwards goes wrong without a word: gradients of a parameter with other strides come back permuted, those of a
parameter that is trained only since then stay those of its own process.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as torch_dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

# Of each parameter itself what buckets depend on, and what is cheap to look at in every iteration.
_Facts = tuple[bool, tuple[int, ...], torch.dtype, torch.device]
_Layout = list[tuple[nn.Parameter, _Facts]]
_laid_out: WeakKeyDictionary[DistributedDataParallel, _Layout] = WeakKeyDictionary()


def to_channels_last(model: nn.Module) -> None:
    """Store convolution weights channels-last, and lay out gradient buckets anew where they were laid out before.

    Args:
        model (nn.Module): A model, wrapped or not; changed in place.

    Raises:
        ValueError: If buckets would have to be laid out anew and cannot be.
    """
    for wrapper in _wrappers(model):
        _laid_out.setdefault(wrapper, _layout(wrapper))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # unknown to PyTorch's own stubs
    follow_parameters(model)


@contextmanager
def plain_memory_format(model: nn.Module) -> Iterator[None]:
    """Context in which channels-last weights lie as PyTorch makes them, and afterwards channels-last again.

    Random numbers are drawn in the order of memory: weights that are initialised within it are those that the same seed
    gives without the conversion.

    Args:
        model (nn.Module): The model, not wrapped.
    """
    tensors = [*model.parameters(), *model.buffers()]
    converted = [tensor for tensor in tensors if tensor.ndim == 4 and not tensor.is_contiguous()]
    for tensor in converted:
        tensor.data = tensor.data.contiguous()
    try:
        yield
    finally:
        for tensor in converted:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)


def remember_layout(model: nn.Module) -> None:
    """Note how the parameters of a model that has just been wrapped lie in memory.

    Args:
        model (nn.Module): What wrapping returned.
    """
    for wrapper in _wrappers(model):
        _laid_out[wrapper] = _layout(wrapper)


def follow_parameters(model: nn.Module) -> list[str]:
    """Lay out the gradient buckets anew whose parameters are not those that they were laid out for.

    To be called in all processes alike. A wrapper whose layout was not noted counts as changed.

    Args:
        model (nn.Module): A model, wrapped as a whole or in parts or not at all.

    Returns:
        list[str]: Names of the parameters that have changed; of a layout that was not noted, none.

    Raises:
        ValueError: If buckets cannot be laid out anew.
    """
    _refuse_parts_without_wrapper(model)
    changed = []
    for wrapper in _wrappers(model):
        before, now = _laid_out.get(wrapper), _layout(wrapper)
        if before is not None and _is_same(before, now):
            continue
        known = dict(before or ())
        names = {parameter: name for name, parameter in wrapper.module.named_parameters()}
        differing = [parameter for parameter, facts in now if known.get(parameter) != facts]
        if before is not None:
            changed += [names[parameter] for parameter in differing] or ["fewer parameters than before"]
            for parameter in differing:
                if parameter not in known:  # all processes must start with the same
                    torch_dist.broadcast(parameter.data, 0)
        _lay_out_anew(wrapper)
        _laid_out[wrapper] = now
    return changed


def has_changed(model: nn.Module) -> bool:
    """Whether a parameter that buckets were laid out for has become trained or frozen, or lies otherwise in memory.

    Cheap enough for every iteration; parameters that were added show in :func:`follow_parameters` alone.

    Args:
        model (nn.Module): The model.

    Returns:
        bool: False also for a model that is not wrapped.
    """
    return any(
        _facts(parameter) != facts for wrapper in _wrappers(model) for parameter, facts in _laid_out.get(wrapper, ())
    )


def require_same_parameters(model: nn.Module) -> None:
    """Raise ``RuntimeError`` in all processes if one of them trains other parameters than the first.

    Args:
        model (nn.Module): The model.
    """
    for wrapper in _wrappers(model):
        trained = [(name, p) for name, p in wrapper.module.named_parameters() if p.requires_grad]
        text = "\n".join(f"{name} {tuple(p.shape)} {p.stride()}" for name, p in trained)
        checksums: list[Any] = [None] * torch_dist.get_world_size(wrapper.process_group)
        torch_dist.all_gather_object(checksums, zlib.crc32(text.encode()), wrapper.process_group)
        if len(set(checksums)) > 1:
            other = next(rank for rank, checksum in enumerate(checksums) if checksum != checksums[0])
            raise RuntimeError(
                f"process {other} does not train the same parameters as process 0 (other ones are frozen, or they lie "
                "in memory otherwise), so that their gradients cannot be averaged: let hooks and models freeze and "
                "convert alike in all processes"
            )


def _wrappers(model: nn.Module) -> Iterator[DistributedDataParallel]:
    """The model itself, or the parts of it that are wrapped one by one (MMSeparateDistributedDataParallel)."""
    if not isinstance(model, DistributedDataParallel):
        return
    if hasattr(model, "reducer"):
        yield model
    else:
        yield from (part for part in model.module.children() if isinstance(part, DistributedDataParallel))


def _refuse_parts_without_wrapper(model: nn.Module) -> None:
    """A part that was frozen when its siblings were wrapped one by one has no wrapper, and gradients of its own."""
    if not isinstance(model, DistributedDataParallel) or hasattr(model, "reducer"):
        return
    for name, part in model.module.named_children():
        if not isinstance(part, DistributedDataParallel) and any(value.requires_grad for value in part.parameters()):
            raise ValueError(
                f"{name} is trained, but was frozen when {type(model).__name__} wrapped the parts of the model, so "
                "that its gradients are not averaged over processes: wrap the whole model "
                "(model_wrapper_cfg=dict(type='MMDistributedDataParallel')), or freeze it after the first epoch"
            )


def _layout(wrapper: DistributedDataParallel) -> _Layout:
    return [(parameter, _facts(parameter)) for parameter in wrapper.module.parameters()]


def _facts(parameter: nn.Parameter) -> _Facts:
    return parameter.requires_grad, parameter.stride(), parameter.dtype, parameter.device


def _is_same(before: _Layout, now: _Layout) -> bool:
    return len(before) == len(now) and all(
        old is new and old_facts == new_facts for (old, old_facts), (new, new_facts) in zip(before, now, strict=True)
    )


def _lay_out_anew(wrapper: DistributedDataParallel) -> None:
    """Rebuild the reducer in place, all options kept: what the wrapper does when it is unpickled."""
    if not any(parameter.requires_grad for parameter in wrapper.module.parameters()):
        return
    try:
        state = wrapper.__getstate__()
    except RuntimeError as error:
        raise ValueError(
            "the parameters were changed after the model was wrapped in DistributedDataParallel with a process group "
            "of its own, and its gradient buckets cannot be laid out anew: convert and freeze the model before it is "
            "wrapped (model.to(memory_format=torch.channels_last) in place of ChannelsLastHook)"
        ) from error
    wrapper.__setstate__(state)
    for hook, hook_state in getattr(wrapper, "_comm_hooks", ()):
        torch_dist._register_comm_hook(wrapper.reducer, hook_state, hook)
