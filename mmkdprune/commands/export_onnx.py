"""Export a network to ONNX: ``mmkdprune onnx``."""

import argparse

from mmkdprune.commands.command_line import readable_errors
from mmkdprune.deploy.network import load_deployable
from mmkdprune.deploy.onnx import export_onnx


def run(args: argparse.Namespace) -> None:
    """Export; see :mod:`mmkdprune.cli.onnx`."""
    with readable_errors(args.debug, building=True):
        network, shape = load_deployable(args.checkpoint, args.part, args.weights)
        if args.image_size:
            shape = (shape[0], *args.image_size)
        out = args.out or args.checkpoint.with_suffix(".onnx")
        export = export_onnx(network, shape, out, args.opset, args.overwrite)
    print(f"exported {export.path}, {export.file_bytes / 1e3:.1f} kB")
    print(f"  images: {export.inputs}")
    for name, sizes in export.outputs.items():
        print(f"  {name}: {sizes}")
    print(f"  largest relative difference between ONNX Runtime and PyTorch: {export.error:.1e}")
