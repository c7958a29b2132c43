"""Stages of a backbone that nobody described: found by tracing one small image."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from mmkdprune.compat.versions import release

from .stage_protocol import StageOutputs, StageProtocol

# Networks with a fixed input resolution refuse the first size. It is large enough that a map of 1x1 pixels must come
# from global pooling and not from a stage (no common network has a stride of 128).
TRACE_SIZES = (128, 224, 256)
MAX_STAGES = 4
RETURNED = "(returned)"  # stands for what the backbone returns, where modules have names


class TracedStages(StageProtocol):
    """Feature maps at the end of each resolution, tapped with forward hooks.

    One image is sent through the backbone when the protocol is made. Of the direct children, and of the items of
    containers among them, the last to produce a 4-dimensional map at each spatial size ends a stage; the last stage
    ends with the map that the backbone returns. Of more than four stages the last four are kept, as in the usual
    residual networks.

    Args:
        backbone (nn.Module): The backbone.

    Raises:
        ValueError: If no traced image size is accepted by the backbone.
    """

    can_copy = False

    def __init__(self, backbone: nn.Module) -> None:
        shapes, output = _trace(backbone)
        ends: dict[tuple[int, int], tuple[str, int]] = {}
        for name, (_, channels, height, width) in shapes:  # in order of execution, so the last module at a size wins
            ends[height, width] = name, channels
        if output is not None:
            # What the backbone returns is its last map, whatever a module before it made at that size (or below).
            _, channels, height, width = output
            ends = {size: end for size, end in ends.items() if size[0] * size[1] > height * width}
            ends[height, width] = RETURNED, channels
        kept = sorted(ends.items(), key=lambda item: -item[0][0] * item[0][1])[-MAX_STAGES:]
        self.names = [name for _, (name, _) in kept]
        self.num_stages = len(self.names)
        # Only the ratios between strides matter for branches, so the first kept size can serve as the unit.
        self._shapes = [(channels, round(kept[0][0][0] / size[0])) for size, (_, channels) in kept]
        self._keeps_hooks = False
        self.taps: dict[str, Tensor] | None = None  # what hooks that are kept write to, during a forward pass

    def stages(self, backbone: nn.Module) -> list[nn.Module]:
        """Not available: a traced module need not be the whole stage.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"the stages of {type(backbone).__name__} are known by tracing only and cannot be copied: use "
            "branch_type='conv', or describe them with mmkdprune.models.branches.register_stage_protocol."
        )

    def feature_shapes(self, backbone: nn.Module) -> list[tuple[int, int]]:
        """Return channels and stride (relative to the first stage) after each stage."""
        return self._shapes

    def repeat_last_stage(self, backbone: nn.Module) -> None:
        """Not available, as :meth:`stages`.

        Raises:
            TypeError: Always.
        """
        self.stages(backbone)

    def prepare_compilation(self, backbone: nn.Module) -> None:
        """Register the hooks once and for all: ``torch.compile`` follows hooks, but not how they come and go.

        Args:
            backbone (nn.Module): The backbone that :meth:`forward` is called with from now on. Copies of a model may be
                run as well.

        Raises:
            ValueError: If this PyTorch cannot follow hooks.
        """
        if release(torch.__version__) < (2, 2, 0):
            raise ValueError(
                f"the stages of {type(backbone).__name__} are known by tracing only, whose hooks the compiler of "
                f"PyTorch {torch.__version__} cannot follow: train with compile=False (speed.compile=False), or with a "
                "later PyTorch."
            )
        if not self._keeps_hooks:
            self._keeps_hooks = True
            for name, module in self._tapped(backbone).items():
                module.register_forward_hook(_TapHook(name, self))

    def _tapped(self, backbone: nn.Module) -> dict[str, nn.Module]:
        return {name: backbone.get_submodule(name) for name in self.names if name != RETURNED}

    def forward(self, backbone: nn.Module, inputs: Tensor) -> StageOutputs:
        """Run the backbone's own ``forward`` and collect the stage ends on the way."""
        taps: dict[str, Tensor] = {}
        if self._keeps_hooks:
            self.taps = taps
            outputs = backbone(inputs)
            self.taps = None
        else:
            with _recording(self._tapped(backbone), taps):
                outputs = backbone(inputs)
        taps[RETURNED] = _last(outputs)
        return StageOutputs([taps[name] for name in self.names], taps[self.names[-1]], outputs)


class _TapHook:
    """A forward hook that is copied along with a model: a copy's hooks write to the copy's own protocol."""

    def __init__(self, name: str, protocol: TracedStages) -> None:
        self.name, self.protocol = name, protocol

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        taps = self.protocol.taps
        if taps is not None:
            _record(taps, self.name, output)


def _record(taps: dict[str, Tensor], name: str, output: Any) -> None:
    if isinstance(output, Tensor):
        taps.pop(name, None)  # a module that runs twice counts at its last run
        taps[name] = output


@contextmanager
def _recording(modules: dict[str, nn.Module], taps: dict[str, Tensor]) -> Iterator[None]:
    def hook(name: str):
        return lambda module, args, output: _record(taps, name, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _last(outputs: Any) -> Any:
    return outputs[-1] if isinstance(outputs, tuple | list) else outputs


def _is_map(value: Any) -> bool:
    """Tell a feature map from vectors, and from a map that global pooling left a single pixel of."""
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[2:].numel() > 1


def _candidates(backbone: nn.Module) -> dict[str, nn.Module]:
    modules = {}
    for name, child in backbone.named_children():
        modules[name] = child
        if isinstance(child, nn.Sequential | nn.ModuleList):
            modules.update({f"{name}.{key}": item for key, item in child.named_children()})
    return modules


@torch.no_grad()
def _trace(backbone: nn.Module) -> tuple[list[tuple[str, torch.Size]], torch.Size | None]:
    """Trace the candidate modules.

    Returns:
        tuple: Name and output shape of those that give feature maps, in order of execution, and the shape of the last
        map that the backbone itself returns (None when it returns vectors).
    """
    backbone = copy.deepcopy(backbone)
    backbone.eval()  # which some backbones override with side effects
    modules = _candidates(backbone)
    parameter = next(backbone.parameters(), torch.zeros(()))
    channels = next((module.in_channels for module in backbone.modules() if isinstance(module, nn.Conv2d)), 3)
    failure: Exception | None = None
    for size in TRACE_SIZES:
        taps: dict[str, Tensor] = {}
        image = torch.zeros(1, channels, size, size, dtype=parameter.dtype, device=parameter.device)
        try:
            with _recording(modules, taps):
                outputs = backbone(image)
        except (RuntimeError, ValueError, AssertionError) as error:
            failure = error
            continue
        maps = [(name, tap.shape) for name, tap in taps.items() if _is_map(tap)]
        last = _last(outputs)
        return maps, last.shape if _is_map(last) else None
    raise ValueError(
        f"backbone {type(backbone).__name__} could not be traced with images of {TRACE_SIZES} px ({failure}): describe "
        "its stages with mmkdprune.models.branches.register_stage_protocol, or use a method without branches "
        "(mmkdprune.MCL, mmkdprune.KnowledgeDistillation)."
    )
