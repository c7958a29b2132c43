"""What to put where when the data or the initial weights of a config are not there."""

import errno
import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.config import Config

from mmkdprune.config.data_sources import SOURCES, what_to_do
from mmkdprune.errors import UsageError

# What MMSegmentation says of a list of images that is not there.
_UNLISTED = re.compile(r"Failed to load `ann_file` (.+)")


@contextmanager
def explained_missing_data(config: Config, field: str) -> Iterator[None]:
    """Replace a bare "No such file or directory" of a data set by a message that says what to put where.

    Errors that a data set has worded itself (without an ``errno``) pass as they are, and so does what has nothing to
    do with the data: a loop has metrics, too.

    Args:
        config: The whole config.
        field: The dataloader that is built inside, such as ``train_dataloader``.

    Raises:
        UsageError: The data are not there.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        where = (frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__))
        if error.errno is None or not isinstance(error.filename, str) or "build_dataloader" not in where:
            raise
        raise UsageError(_explanation(config, field, error)) from error
    except AssertionError as error:
        listed = _UNLISTED.fullmatch(str(error))
        if listed is None:
            raise
        absent = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), listed[1])
        raise UsageError(_explanation(config, field, absent)) from error


def check_initial_weights(config: Config) -> None:
    """Refuse files of ``init_cfg`` that do not exist before any data are read.

    MMEngine initialises a model that it is about to resume, too.

    Args:
        config: The whole config.

    Raises:
        UsageError: A file is not there.
    """
    for place, checkpoint in _initial_weights(config.get("model"), "model"):
        if "://" not in checkpoint and not os.path.isfile(checkpoint):
            raise UsageError(
                f"{place}: "
                + (f"there is no checkpoint {checkpoint}" if checkpoint else "it is empty, and a checkpoint is needed")
                + ". Train it first (the folder is named after its config), or give another: --cfg-options "
                f"{place}=FILE; {place.removesuffix('.checkpoint')}=None starts from random weights"
            )


def _initial_weights(settings: Any, place: str) -> Iterator[tuple[str, str]]:
    """Files that parts of a model are initialised from, with their place in the config."""
    if isinstance(settings, list | tuple):
        for index, item in enumerate(settings):
            yield from _initial_weights(item, f"{place}.{index}")
    elif isinstance(settings, dict):
        for key, value in settings.items():
            loads = key == "init_cfg" and isinstance(value, dict) and value.get("type") == "Pretrained"
            if loads and isinstance(value.get("checkpoint"), str):
                yield f"{place}.{key}.checkpoint", value["checkpoint"]
            elif key != "init_cfg":
                yield from _initial_weights(value, f"{place}.{key}")


def _explanation(config: Config, field: str, error: OSError) -> str:
    missing = os.path.abspath(error.filename)
    leaves = list(_leaves((config.get(field) or {}).get("dataset") or {}, f"{field}.dataset"))
    path, dataset = next(
        (leaf for leaf in leaves if (root := leaf[1].get("data_root")) and _is_inside(missing, root)),
        leaves[0] if leaves else (f"{field}.dataset", {}),
    )
    kind = dataset.get("type", "data set")
    name = kind.split(".")[-1] if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
    root = dataset.get("data_root") or ""
    absent = root if root and not os.path.lexists(root) else missing
    advice = f".\n{what_to_do(name, root or os.path.dirname(missing))}." if name in SOURCES else ""
    return (
        f"{field}: the data of {name} (data_root={root!r}) are not there: {missing}: {error.strerror}.\n"
        f"Put them there, link them (ln -s /path/to/the/data {absent}), or set {path}.data_root=/path/to/the/data"
        + advice
    )


def _leaves(dataset: Any, path: str) -> Iterator[tuple[str, dict]]:
    """Data sets of a config that read files, with their place in it; wrappers hold others."""
    if not isinstance(dataset, dict):
        return
    inner = [(dataset[key], f"{path}.{key}") for key in ("dataset", "datasets") if key in dataset]
    for value, place in inner:
        if isinstance(value, list | tuple):
            for index, entry in enumerate(value):
                yield from _leaves(entry, f"{place}.{index}")
        else:
            yield from _leaves(value, place)
    if not inner:
        yield path, dataset


def _is_inside(path: str, folder: str) -> bool:
    folder = os.path.abspath(folder)
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
