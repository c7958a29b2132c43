"""From the deployable network of a checkpoint to an ONNX file that is proved equal with ONNX Runtime."""

import inspect
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmkdprune.checkpoint.atomic import atomic_write
from mmkdprune.pruning.forward import flat
from mmkdprune.pruning.modes import set_evaluation

TOLERANCE = 1e-4
OPSET = 17


class OnnxExportError(ValueError):
    """An export to ONNX does not work out; the message says why."""


@dataclass
class OnnxExport:
    """What was written.

    Attributes:
        path: The file.
        inputs: Shape of the input, ``'N'`` for any number of images.
        outputs: Shapes of the outputs, likewise, by name.
        error: Largest difference from PyTorch on random images, relative to the largest value of the output.
        file_bytes: Size of the file.
    """

    path: Path
    inputs: list[int | str]
    outputs: dict[str, list[int | str]]
    error: float
    file_bytes: int


class _Listed(nn.Module):
    """Gives the outputs as a plain tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for value in flat(self.network(images)) if isinstance(value, Tensor))


def export_onnx(
    network: nn.Module, image_shape: Sequence[int], out: Path, opset: int = OPSET, overwrite: bool = False
) -> OnnxExport:
    """Write a network to an ONNX file for any number of images, and compare it with PyTorch.

    Args:
        network (nn.Module): Called as ``network(images)``; a compact network is as good as any.
        image_shape (Sequence[int]): (C, H, W); height and width are fixed in the file.
        out (Path): The file to write.
        opset (int): Version of ONNX's operators. Defaults to 17.
        overwrite (bool): Replace an existing file. Defaults to False.

    Returns:
        OnnxExport: What was written.

    Raises:
        OnnxExportError: A package is missing, the file exists, an operator cannot be expressed, or ONNX Runtime gives
            something else than PyTorch (relative difference above 1e-4).
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise OnnxExportError(
            f"export to ONNX needs the package {error.name}: pip install 'mmkdprune[onnx]', or pip install onnx "
            "onnxruntime"
        ) from None
    if out.exists() and not overwrite:
        raise OnnxExportError(f"{out} exists already; add --overwrite to replace it, or give another name")
    listed = _Listed(network)
    set_evaluation(listed)
    parameter = next(network.parameters())
    images = torch.randn(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(parameter.device)
    with torch.no_grad():
        expected = listed(images)
    names = ["logits"] if len(expected) == 1 and expected[0].ndim == 2 else [f"map{i}" for i in range(len(expected))]
    content = _onnx_bytes(listed, images, names, opset)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {"images": images.cpu().numpy()})
    difference = max(
        float((one.cpu() - torch.from_numpy(other)).abs().max() / one.abs().max().clamp_min(1e-12))
        for one, other in zip(expected, found, strict=True)
    )
    if not difference <= TOLERANCE:
        raise OnnxExportError(
            f"ONNX Runtime gives something else than PyTorch: relative difference {difference:.2g}, at most "
            f"{TOLERANCE:g} is allowed"
        )
    session.run(None, {"images": images[:1].cpu().numpy()})  # any number of images
    with atomic_write(out) as file:
        file.write(content)
    shapes = {name: ["N", *value.shape[1:]] for name, value in zip(names, expected, strict=True)}
    return OnnxExport(out, ["N", *image_shape], shapes, difference, out.stat().st_size)


def _onnx_bytes(network: nn.Module, images: Tensor, names: list[str], opset: int) -> bytes:
    # The exporter by tracing needs no further package, and PyTorch has it in all versions so far.
    options = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    axes = {name: {0: "N"} for name in ("images", *names)}
    with io.BytesIO() as buffer, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, about shapes that are fixed on purpose
        try:
            torch.onnx.export(
                network,
                (images,),
                buffer,  # type: ignore[arg-type]
                input_names=["images"],
                output_names=names,
                dynamic_axes=axes,
                opset_version=opset,
                **options,  # type: ignore[arg-type]
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise OnnxExportError(f"the network cannot be written as ONNX (opset {opset}): {error}") from None
        return buffer.getvalue()
