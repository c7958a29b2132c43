"""What the scripts of this folder have in common: each is one command of ``mmkdprune``, run from a checkout."""

import sys
from pathlib import Path

try:
    from mmkdprune.cli.main import main
except ImportError as problem:
    absent = isinstance(problem, ModuleNotFoundError) and problem.name == "mmkdprune"
    sys.exit(f"error: {problem}" + ("; run `pip install -e .` in its clone" if absent else ""))


def start(command: str) -> None:
    """Run a command with the arguments of this script.

    Args:
        command: Name of the subcommand.
    """
    main([command, *sys.argv[1:]], prog=Path(sys.argv[0]).name)
