"""Export the deployable network of a checkpoint, dense or compact, to ONNX.

    python tools/export_onnx.py work_dirs/<run>/epoch_20.pth
    python tools/export_onnx.py compact/compact.pth --out compact.onnx

The checkpoint is one of a run, or what tools/compact.py or tools/export_backbone.py wrote. The file takes any number of
images; ONNX Runtime runs it and must give what PyTorch gives.
"""

import argparse
import sys
from pathlib import Path

try:
    import mmkdprune  # noqa: F401  (checks the installed versions)
except ImportError as problem:
    absent = isinstance(problem, ModuleNotFoundError) and problem.name == "mmkdprune"
    sys.exit(f"error: {problem}" + ("; run `pip install -e .` in its clone" if absent else ""))

from mmkdprune.commands.command_line import add_stored_network_arguments, add_weights_argument, readable_errors
from mmkdprune.deploy.network import load_deployable
from mmkdprune.deploy.onnx import OPSET, export_onnx


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, help="checkpoint of a run, or exported or compact checkpoint")
    parser.add_argument("--out", type=Path, help="file to write (default: beside the checkpoint, with .onnx)")
    parser.add_argument("--part", choices=["backbone", "classifier"], default="classifier", help="what to export")
    add_weights_argument(parser)
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="size of the images (default: what the checkpoint knows of its run, else 224 224)",
    )
    parser.add_argument("--opset", type=int, default=OPSET, help=f"version of ONNX's operators (default: {OPSET})")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    add_stored_network_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")
    return parser.parse_args()


def main() -> None:
    """Export; see the module's docstring."""
    args = parse_args()
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


if __name__ == "__main__":
    main()
