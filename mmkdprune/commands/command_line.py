"""What the tools share: readable errors, reading configs, dataloader defaults, the command to repeat a run."""

import argparse
import errno
import importlib
import importlib.util
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from mmengine.config import Config, DictAction

from mmkdprune.checkpoint.file_check import NO_FILE_CHECK_VARIABLE
from mmkdprune.compat.distributed import prepare_launch
from mmkdprune.errors import UsageError

DEBUG_VARIABLE = "MMKDPRUNE_DEBUG"
# `tools/dist_train.sh` puts the command that started it here: what torchrun passes on is not what the user typed.
LAUNCH_VARIABLE = "MMKDPRUNE_LAUNCH"
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
# What a machine's disk or its rights refuse, and what to do about it.
_DISK = {
    errno.ENOSPC: "free some space, or write elsewhere",
    errno.EDQUOT: "free some space, or write elsewhere",
    errno.EFBIG: "the file system or a limit of this account takes no larger file: write elsewhere",
    errno.EROFS: "it can only be read: write elsewhere",
    errno.EACCES: "the rights of file or folder do not allow it",
    errno.EPERM: "the rights of file or folder do not allow it",
    errno.EEXIST: "there is something of that name: remove it, or give another name",
    errno.ENOTDIR: "a folder is needed, and there is a file of that name: give another folder",
    errno.EISDIR: "a file is needed, and there is a folder of that name: give a file",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.EIO: "the disk could not be read or written",
    errno.ESTALE: "the network drive has lost the file: mount it again",
}
# What MMEngine's registries say of a name or an argument that a config got wrong.
_CONFIG_MISTAKES = ("registry. Please check", "unexpected keyword argument", "required positional argument")


def rank() -> int:
    """Rank of this process as the launcher tells it, also before ``torch.distributed`` is initialised."""
    return next((int(os.environ[name]) for name in _RANK_VARIABLES if name in os.environ), 0)


def fail(message: str, code: int = 1) -> NoReturn:
    """Print one ``error: …`` message and end the process."""
    where = f"[rank {rank()}] " if rank() else ""
    print(f"{where}error: {message}", file=sys.stderr, flush=True)
    raise SystemExit(code)


@contextmanager
def readable_errors(debug: bool = False, building: bool = False) -> Iterator[None]:
    """Show a user's mistake as one message; let everything else keep its traceback.

    A mistake is a missing file, a file or folder that cannot be read or written, an exception class of this package, or
    a ``ValueError`` that this package raised.

    Args:
        debug: Let every exception through.
        building: Inside are the config and the objects it describes, where every ``ValueError``, an assertion with a
            text, and a wrong name or argument of a class are mistakes in the config.
    """
    try:
        yield
    except Exception as error:
        if debug or os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0") or not _is_mistake(error, building):
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else _without_worker(error)
        # An error class of this package says all there is to say.
        fail(f"{text}" if _is_ours(type(error).__module__) else f"{text}\n(add --debug for the full traceback)")


def _is_mistake(error: Exception, building: bool) -> bool:
    if isinstance(error, FileNotFoundError | NotADirectoryError) or _is_ours(type(error).__module__):
        return True
    if isinstance(error, OSError) and error.errno in _DISK:
        return True
    if isinstance(error, ValueError) and building:
        return True
    if isinstance(error, AssertionError) and building:  # how OpenMMLab checks arguments and data
        return bool(str(error))
    if isinstance(error, KeyError | TypeError) and building:
        return any(mark in str(error) for mark in _CONFIG_MISTAKES)
    if isinstance(error, SyntaxError) and building:
        return "config file" in str(error)
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    return isinstance(error, ValueError) and _is_ours(innermost.f_globals.get("__name__", ""))


def _without_worker(error: BaseException) -> str:
    """The message of an error, also of one that a dataloader's worker has passed on with its stack trace."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in _DISK:
        return f"{text}; {_DISK[error.errno]}"
    if text.startswith("Caught ") and " in DataLoader worker process" in text:
        return text.rstrip().rpartition(f"{type(error).__name__}: ")[2]
    return text


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "mmkdprune"


class _NoFileCheck(argparse.Action):
    def __call__(self, *_: Any, **__: Any) -> None:
        os.environ[NO_FILE_CHECK_VARIABLE] = "1"  # commands that this one starts get it, too


class _Imports(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option: str | None = None) -> None:
        for name in values:
            try:
                importlib.import_module(name)
            except ImportError as error:
                parser.error(f"{option} {name}: {error}")
        setattr(namespace, self.dest, values)


def add_file_check_argument(parser: argparse.ArgumentParser) -> None:
    """Add the switch that loads files without comparing them with their checksums; it acts when it is parsed."""
    parser.add_argument(
        "--no-file-check",
        action=_NoFileCheck,
        nargs=0,
        help="load checkpoints without comparing them with their checksums (a damaged file loads as other weights)",
    )


def add_stored_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what tools need that rebuild a network from the config in a checkpoint."""
    add_file_check_argument(parser)
    parser.add_argument(
        "--imports",
        action=_Imports,
        nargs="+",
        default=[],
        metavar="PACKAGE",
        help="import these first: packages of your own with the classes of the checkpoint's network",
    )


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that ``tools/train.py`` and ``tools/test.py`` share."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        help='override settings of the config: key=value pairs; a list is key="[a,b]" or key=a,b, nested lists and '
        'tuples are key="[(a,b),(c,d)]" (quotation marks needed, no white space)',
    )
    parser.add_argument("--no-pin-memory", action="store_true", help="do not pin memory in the dataloaders")
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none", help="job launcher")
    add_file_check_argument(parser)
    # torch >= 2.0 passes `--local-rank`, older launchers `--local_rank`; torchrun sets LOCAL_RANK instead.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--debug", action="store_true", help="show the full traceback of every error")


def add_weights_argument(parser: argparse.ArgumentParser) -> None:
    """Add the choice of weights of a run with averaged ones."""
    parser.add_argument(
        "--weights",
        choices=["saved", "ema", "raw"],
        default="saved",
        help="of a run with EMAHook the averaged (ema, also what is saved as state_dict) or the raw weights",
    )


def set_work_dir(config: Config, name: str, work_dir: str | None) -> None:
    """Choose the work dir: the command line first, then the config, then ``./work_dirs/<config name>``."""
    if work_dir is not None:
        config.work_dir = work_dir
    elif config.get("work_dir") is None:
        stem = os.path.splitext(os.path.basename(name.split("::")[-1]))[0]
        config.work_dir = os.path.join("./work_dirs", stem)
    own = config.filename
    copy = os.path.join(config.work_dir, os.path.basename(own)) if own else ""
    if os.path.exists(copy) and os.path.samefile(copy, own):
        raise UsageError(
            f"a run writes the config it has used into its work dir, here over {own} itself: give another --work-dir"
        )


def set_launcher(config: Config, launcher: str, local_rank: int) -> None:
    """Choose the launcher and prepare what MMEngine's own set-up cannot do (no GPU)."""
    os.environ.setdefault("LOCAL_RANK", str(local_rank))
    config.launcher = launcher
    prepare_launch(config, launcher)


def repeat_command(work_dir: str, *extra: str) -> str:
    """Command line that repeats this run in the same work dir, without its ``--resume`` and ``--overwrite``."""
    options = _without_restart_flags(sys.argv[1:])
    if LAUNCH_VARIABLE in os.environ:
        # torchrun started us as `train.py CONFIG --launcher pytorch …`; the launch script adds the first three itself.
        command, options = os.environ[LAUNCH_VARIABLE].strip(), options[3:]
    else:
        # All that stands before our own arguments: the interpreter, its options and the script.
        command = shlex.join(sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1])
    if not any(option.split("=")[0] == "--work-dir" for option in options):
        options += ["--work-dir", work_dir]
    return f"{command} {shlex.join([*options, *extra])}"


def _without_restart_flags(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    after_resume = False
    for argument in arguments:
        value_of_resume = after_resume and not argument.startswith("-")
        after_resume = argument == "--resume"
        if not (value_of_resume or after_resume or argument == "--overwrite" or argument.startswith("--resume=")):
            kept.append(argument)
    return kept
