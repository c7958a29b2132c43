"""What commands share: readable errors, the work dir, the launcher, the command that repeats a run."""

import difflib
import errno
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from mmengine import registry
from mmengine.config import Config
from mmengine.registry import Registry

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
        text = f"{text}{_nearest_type(str(text))}"
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


def _nearest_type(text: str) -> str:
    """The registered name that is most like one that no registry has, as a hint; nothing for other errors."""
    absent = re.search(r"(\S+) is not in the (\S+?) registry\. Please check", text)
    if absent is None:
        return ""
    # All packages' registries of that kind: a name may only lack its package.
    names = {
        f"{registry.scope}.{name}" if registry.scope != "mmengine" else name
        for registry in _family(absent[2].rpartition("::")[2])
        for name in registry.module_dict
    }
    close = difflib.get_close_matches(absent[1], names, n=1, cutoff=0.7)
    if not close:
        short = {name.rpartition(".")[2]: name for name in names}
        close = [
            short[name] for name in difflib.get_close_matches(absent[1].rpartition(".")[2], short, n=1, cutoff=0.7)
        ]
    return f"\nDid you mean type='{close[0]}'?" if close else ""


def _family(kind: str) -> list[Registry]:
    """The registry of a kind (``'model'``), and those of all packages below it."""
    roots = [value for value in vars(registry).values() if isinstance(value, Registry) and value.name == kind]
    found = []
    while roots:
        one = roots.pop()
        found.append(one)
        roots += one.children.values()
    return found


def _is_ours(module: str) -> bool:
    return module.split(".")[0] == "mmkdprune"


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
        # The launcher started us with `CONFIG --launcher pytorch …`; what it was called with has these three itself.
        command, options = os.environ[LAUNCH_VARIABLE].strip(), options[3:]
    else:
        command = shlex.join(own_command())
    if not any(option.split("=")[0] == "--work-dir" for option in options):
        options += ["--work-dir", work_dir]
    return f"{command} {shlex.join([*options, *extra])}"


def own_command() -> list[str]:
    """All that stood before this command's own arguments: ``mmkdprune train``, or an interpreter and a script."""
    before = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    if len(before) > 1 and os.path.basename(before[1]) == "mmkdprune":  # the script that pip has made
        return ["mmkdprune", *before[2:]]
    return before


def _without_restart_flags(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    after_resume = False
    for argument in arguments:
        value_of_resume = after_resume and not argument.startswith("-")
        after_resume = argument == "--resume"
        if not (value_of_resume or after_resume or argument == "--overwrite" or argument.startswith("--resume=")):
            kept.append(argument)
    return kept
