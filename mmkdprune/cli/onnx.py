"""Export the deployable network of a checkpoint, dense or compact, to ONNX.

    mmkdprune onnx work_dirs/<run>/epoch_20.pth
    mmkdprune onnx compact/compact.pth --out compact.onnx

The checkpoint is one of a run, or what ``mmkdprune compact`` or ``mmkdprune export`` wrote. The file takes any number
of images; ONNX Runtime runs it and must give what PyTorch gives.
"""

import argparse
from pathlib import Path

from .arguments import (
    add_debug_argument,
    add_image_size_argument,
    add_stored_network_arguments,
    add_weights_argument,
)

HELP = "export a dense or compact network to ONNX"
OPSET = 17  # that of mmkdprune.deploy.onnx


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a run, or exported or compact checkpoint")
    parser.add_argument("--out", type=Path, help="file to write (default: beside the checkpoint, with .onnx)")
    parser.add_argument("--part", choices=["backbone", "classifier"], default="classifier", help="what to export")
    add_weights_argument(parser)
    add_image_size_argument(parser, "what the checkpoint knows of its run, else 224 224")
    parser.add_argument("--opset", type=int, default=OPSET, help=f"version of ONNX's operators (default: {OPSET})")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_stored_network_arguments(parser)
    add_debug_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Export."""
    from mmkdprune.commands.export_onnx import run as export_onnx

    export_onnx(args)
