"""List the configs that come with this package, or copy one to start from.

    mmkdprune configs                          # all of them
    mmkdprune configs digits                   # those with a path that contains it; a regular expression will do
    mmkdprune configs mixskd.*digits-16px --copy my_config.py

A copy inherits from the config in the package: change or add settings in it, and train it with ``mmkdprune train``.
"""

import argparse
from pathlib import Path

HELP = "list the configs of this package, or copy one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("pattern", nargs="?", default="", help="regular expression on their paths")
    parser.add_argument(
        "--copy",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE",
        help="write one: to this file or folder (default: its own name, here)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")


def run(args: argparse.Namespace) -> None:
    """List or copy."""
    from mmkdprune.commands.configs import run as configs

    configs(args)
