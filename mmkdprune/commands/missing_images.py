"""Images that a data set lists but that are not there: told before training, not hours later by a worker process."""

import os
from collections.abc import Iterator, Mapping
from typing import Any

from mmkdprune.errors import UsageError

# Evenly spaced entries are looked at in larger sets: start-up stays within seconds.
_MOST_ENTRIES = 20_000
_SHOWN = 3
# Fields of an entry that name a file, in data sets of MMPretrain, MMDetection and MMSegmentation.
_FILES = ("img_path", "seg_map_path")


def check_images(dataset: Any, place: str) -> None:
    """Refuse a data set that lists files which do not exist.

    Files on other machines (``s3://…``) and data sets that are no ``BaseDataset`` are not looked at.

    Args:
        dataset: A data set, or a wrapper of others.
        place: Its field in the config, such as ``train_dataloader``.

    Raises:
        UsageError: Files are missing; it names some of them and says how many they are.
    """
    for leaf in _leaves(dataset):
        missing, looked_at = _missing(leaf)
        if not missing:
            continue
        names = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        of = f"{looked_at} of its {len(leaf)} entries" if looked_at < len(leaf) else f"its {looked_at} entries"
        annotations = getattr(leaf, "ann_file", "")
        raise UsageError(
            f"{place}: {len(missing)} files that {type(leaf).__name__} lists are not there (of {of}): {names}.\n"
            + (f"They are listed in ann_file={annotations!r}. " if annotations else "")
            + "Put them there, or set data_root and data_prefix of the data set to where they are, or take the entries "
            "out of the list"
        )


def _leaves(dataset: Any) -> Iterator[Any]:
    inner = [getattr(dataset, "dataset", None), *(getattr(dataset, "datasets", None) or [])]
    inner = [one for one in inner if one is not None]
    if not inner and hasattr(dataset, "get_data_info") and getattr(dataset, "_fully_initialized", False):
        yield dataset
    for one in inner:
        yield from _leaves(one)


def _missing(dataset: Any) -> tuple[list[str], int]:
    number = len(dataset)
    indices = range(0, number, max(1, -(-number // _MOST_ENTRIES)))
    folders: dict[str, frozenset[str]] = {}
    missing: dict[str, None] = {}
    for index in indices:
        info = dataset.get_data_info(index)
        for name in _FILES if isinstance(info, Mapping) else ():
            path = info.get(name)
            if isinstance(path, str) and "://" not in path and not _exists(path, folders):
                missing[path] = None
    return list(missing), len(indices)


def _exists(path: str, folders: dict[str, frozenset[str]]) -> bool:
    """One listing a folder: asking for every file takes minutes on a network drive."""
    folder, name = os.path.split(path)
    if folder not in folders:
        try:
            folders[folder] = frozenset(os.listdir(folder or "."))
        except OSError:
            folders[folder] = frozenset()
    return name in folders[folder]
