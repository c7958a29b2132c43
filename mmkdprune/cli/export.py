"""Export the backbone, or the deployable classifier, from a training checkpoint.

    mmkdprune export work_dirs/<run>/epoch_20.pth

Prints what was exported and dropped, compares it with the network of the run's config, and prints the lines that load
it into a config of MMPretrain, MMDetection or MMSegmentation.
"""

import argparse

from .arguments import add_debug_argument, add_stored_network_arguments, add_weights_argument

HELP = "export the backbone or the classifier of a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("checkpoint", help="checkpoint of a run")
    parser.add_argument(
        "out",
        nargs="?",
        help="folder, or path and stem of the file (a short hash is added); default: named after the config, beside "
        "the checkpoint",
    )
    parser.add_argument("--part", choices=["backbone", "classifier"], default="backbone", help="what to export")
    add_weights_argument(parser)
    parser.add_argument(
        "--peer",
        type=int,
        default=0,
        help="which of several networks trained together (default: 0, the deployable one)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    parser.add_argument("--check", metavar="CONFIG", help="compare with the backbone of this config, of any package")
    add_stored_network_arguments(parser)
    add_debug_argument(parser)


def run(args: argparse.Namespace) -> None:
    """Export."""
    from mmkdprune.commands.export import run as export

    export(args)
