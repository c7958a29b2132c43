"""Read checkpoint files without running code from them, and checked against their checksums; no MMEngine is needed."""

import errno
import os
import pickle
import re
import struct
import traceback
import warnings
import zipfile
from pathlib import Path
from typing import Any, NoReturn

import torch

from .file_check import NO_FILE_CHECK_VARIABLE, start_check
from .search import is_whole, newest_whole_checkpoint

UNSAFE_LOAD_VARIABLE = "MMKDPRUNE_UNSAFE_LOAD"
# What PyTorch says of a file that lost a part. Other RuntimeErrors (a CUDA tensor without CUDA, say) stay as they are.
_CORRUPT_SIGNS = ("PytorchStreamReader", "inline_container", "hasRecord", "unexpected EOF", "storage has wrong")


class UnsafeCheckpointError(RuntimeError):
    """A checkpoint holds Python objects whose loading can run code."""


class CorruptCheckpointError(RuntimeError):
    """A file is empty, truncated, damaged, or no PyTorch checkpoint at all."""


def load_checkpoint_file(path: str | os.PathLike, map_location: Any = "cpu") -> dict:
    """Loads a local checkpoint without running code from it, and checks it against its own checksums.

    Args:
        path (str | os.PathLike): The file.
        map_location (Any): As for ``torch.load``. Defaults to ``'cpu'``.

    Returns:
        dict: The checkpoint.

    Raises:
        FileNotFoundError: There is no such file.
        CorruptCheckpointError: The file is empty, truncated, damaged or no PyTorch checkpoint.
        UnsafeCheckpointError: The file holds more than tensors and plain values, and the environment variable
            ``MMKDPRUNE_UNSAFE_LOAD=1`` is not set.
        TypeError: The file holds something else than a dictionary.
    """
    checkpoint = load_safely(path, map_location)
    if not isinstance(checkpoint, dict):
        raise TypeError(f"{path} holds a {type(checkpoint).__name__}; a checkpoint is a dictionary")
    return checkpoint


def load_safely(path: str | os.PathLike, map_location: Any = None) -> Any:
    """As :func:`load_checkpoint_file`, for a file that holds anything.

    Args:
        path (str | os.PathLike): The file.
        map_location (Any): As for ``torch.load``. Defaults to None.

    Returns:
        Any: What the file holds.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"checkpoint {str(path)!r} can not be found.")
    damage_found = start_check(path)
    try:
        content = torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        if damage := damage_found():
            _raise_corrupt(path, damage=damage)
        trouble = _unwrapped(error)
        if not _speaks_of_the_file(trouble, path):
            raise trouble from None
        objects = _unsafe_objects(path, trouble)
        if not objects:
            _raise_corrupt(path, trouble)
    else:
        if damage := damage_found():
            _raise_corrupt(path, damage=damage)
        return content
    if os.environ.get(UNSAFE_LOAD_VARIABLE, "") in ("", "0"):
        raise UnsafeCheckpointError(
            f"{path} is not loaded: besides tensors and plain values it holds Python objects ({_listed(objects)}), and "
            "loading those can run any code. Checkpoints of stock MMEngine runs are like this. If you trust where the "
            f"file comes from, set the environment variable {UNSAFE_LOAD_VARIABLE}=1 and repeat the command; a "
            "checkpoint saved by that run loads without it."
        )
    warnings.warn(
        f"{UNSAFE_LOAD_VARIABLE} is set: loading {path} with its Python objects ({_listed(objects)}), which can run "
        "any code",
        stacklevel=2,
    )
    return torch.load(path, map_location=map_location, weights_only=False)


def _unwrapped(error: Exception) -> Exception:
    """What happened, where PyTorch before 2.4 calls every RuntimeError of a safe load an unsafe file."""
    inner = error.__context__
    if not (isinstance(error, pickle.UnpicklingError) and isinstance(inner, RuntimeError)):
        return error
    *_, (frame, _) = traceback.walk_tb(inner.__traceback__)
    return error if frame.f_globals["__name__"] == "torch._weights_only_unpickler" else inner


def _speaks_of_the_file(error: Exception, path: str) -> bool:
    """Tells a file that cannot be read from other trouble, such as memory, permissions or a device that is absent."""
    if isinstance(error, OSError):
        return error.errno == errno.EINVAL  # a position before the beginning: the file is too short
    if isinstance(error, RuntimeError):
        return not is_whole(path) or any(sign in str(error) for sign in _CORRUPT_SIGNS)
    # What readers of pickles and archives raise on nonsense.
    kinds = (pickle.UnpicklingError, EOFError, zipfile.BadZipFile, struct.error, LookupError, ValueError)
    return isinstance(error, kinds)


def _unsafe_objects(path: str, failure: Exception) -> list[str]:
    """Names of the Python objects that made a safe load fail; empty when the file itself is broken."""
    if not is_whole(path) or not isinstance(failure, pickle.UnpicklingError):
        return []
    names: set[str] = set()
    if hasattr(torch.serialization, "get_unsafe_globals_in_checkpoint"):
        try:
            names.update(torch.serialization.get_unsafe_globals_in_checkpoint(path))
        except Exception:  # the legacy format: the error message names the first object
            names.clear()
    return sorted(names) or re.findall(r"(?:GLOBAL|class) ([A-Za-z_][\w.]*\.\w+)", str(failure))[:1]


def _listed(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _raise_corrupt(path: str, failure: Exception | None = None, damage: str = "") -> NoReturn:
    size = os.path.getsize(path)
    earlier = newest_whole_checkpoint(Path(path).resolve().parent, other_than=path)
    state = "is empty" if size == 0 else "is truncated, damaged or no PyTorch checkpoint"
    advice = f". An earlier checkpoint in that folder is whole: {earlier}" if earlier else ""
    if damage and is_whole(path):
        state = f"is damaged: {damage}"
        advice += f". --no-file-check ({NO_FILE_CHECK_VARIABLE}=1) loads it as it is"
    elif failure is not None and size:
        detail = str(failure).strip().splitlines()[:1]
        state += f" ({detail[0].split('. ')[0]})" if detail and "Weights only load failed" not in detail[0] else ""
    raise CorruptCheckpointError(f"{path} ({size:,} bytes) {state}{advice}") from None
