"""The command ``mmkdprune``: finds the subcommand, reads its arguments and runs it."""

import argparse
import difflib
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

from mmkdprune.compat.versions import StackError, check_versions
from mmkdprune.install import install_with_mmengine
from mmkdprune.version import __version__

from . import (
    chain,
    compact,
    configs,
    demo,
    env,
    export,
    few_shot,
    knn,
    linear_probe,
    onnx,
    pipeline,
    report,
    sensitivity,
    test,
    train,
    transfer,
)

COMMANDS: dict[str, ModuleType] = {
    "train": train,
    "test": test,
    "pipeline": pipeline,
    "demo": demo,
    "chain": chain,
    "export": export,
    "compact": compact,
    "transfer": transfer,
    "onnx": onnx,
    "linear-probe": linear_probe,
    "knn": knn,
    "few-shot": few_shot,
    "report": report,
    "sensitivity": sensitivity,
    "configs": configs,
    "env": env,
}


def main(words: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run a subcommand.

    Args:
        words (Sequence[str], optional): The subcommand and its arguments. Defaults to the command line's.
        prog (str, optional): What stands before the arguments in the usage. Defaults to ``mmkdprune`` and the
            subcommand.
    """
    name, *arguments = (sys.argv[1:] if words is None else words) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview())
        return
    if name == "--version":
        print(f"mmkdprune {__version__}")
        return
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean `mmkdprune {close[0]}`? " if close else ""
        print(f"error: mmkdprune has no command {name!r}; {hint}`mmkdprune --help` lists them", file=sys.stderr)
        sys.exit(2)
    command = COMMANDS[name]
    # All that stands before the arguments in one word: what starts this command again is then found in one way,
    # whether it is `mmkdprune train`, `python -m mmkdprune train` or `python tools/train.py`.
    sys.argv = [f"mmkdprune {name}", *arguments]
    args = read_arguments(command, prog or sys.argv[0], arguments)
    if command is not env:
        try:
            check_versions()
        except StackError as problem:
            sys.exit(f"error: {problem}")
        install_with_mmengine()
    # MMEngine 0.10 imports pkg_resources; the check of the versions has seen to it that it is there.
    warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
    command.run(args)


def read_arguments(command: ModuleType, prog: str, arguments: Sequence[str]) -> argparse.Namespace:
    """Read the arguments of a subcommand.

    Args:
        command (ModuleType): One of ``COMMANDS``.
        prog (str): How it was called.
        arguments (Sequence[str]): What follows.

    Returns:
        argparse.Namespace: For the subcommand's ``run``.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=command.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_nearest_option(parser, unknown)}")
    if hasattr(command, "check_arguments"):
        command.check_arguments(parser, args)
    return args


def _nearest_option(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> str:
    options = [option for action in parser._actions for option in action.option_strings]
    for word in unknown:
        if word.startswith("-") and (close := difflib.get_close_matches(word.split("=")[0], options, n=1)):
            return f" (did you mean {close[0]}?)"
    return ""


def overview() -> str:
    """Return the list of subcommands."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{command.HELP}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mmkdprune COMMAND [arguments]",
            "",
            "Knowledge distillation and filter pruning for OpenMMLab.",
            "",
            *lines,
            "",
            "`mmkdprune COMMAND --help` shows the arguments of one. A config is a file, or package::path of one in an",
            "installed package: mmkdprune::mixskd/mixskd_resnet20_1xb64-20e_digits-16px.py",
        ]
    )
