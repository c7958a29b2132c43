"""What is installed, what of it does not fit together, and the command that mends it.

    mmkdprune env [--quick]

Runs also where the other subcommands refuse the environment. The exit status is 1 when something is wrong.
"""

import argparse
import sys

HELP = "show what is installed and what of it does not fit together"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this subcommand."""
    parser.add_argument("--quick", action="store_true", help="do not try to import the packages")


def run(args: argparse.Namespace) -> None:
    """Look, and print what was found."""
    from mmkdprune.env import print_report

    sys.exit(print_report(try_imports=not args.quick))
