"""Compare the class names of data sets, checkpoints and heads; a label is the position of its name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

ACCEPT_OTHER_CLASSES = "custom_hooks=[dict(type='mmkdprune.CheckClassesHook', allow_other_classes=True)]"
_LISTED = 8  # names of a message


class ClassMismatchError(ValueError):
    """Two parts of a run do not mean the same classes by the same labels."""


class LabelRangeError(ClassMismatchError):
    """A label has no class."""


def class_names(dataset: Any, field: str) -> tuple[str, ...] | None:
    """Return the class names of a data set.

    Args:
        dataset (Any): A data set with ``metainfo``, or that mapping itself.
        field (str): Its place in the config, such as ``train_dataloader.dataset``, for the message.

    Returns:
        tuple[str, ...] | None: The names; None if it has none.

    Raises:
        ClassMismatchError: If they are one string, whose letters would be counted as classes.
    """
    info = dataset if isinstance(dataset, Mapping) else getattr(dataset, "metainfo", None)
    names = (info or {}).get("classes")
    if isinstance(names, str):
        raise ClassMismatchError(
            f"{field}.metainfo: classes is the string {names!r}, which would count as {len(names)} classes, one per "
            f"letter: write a tuple, classes=({names!r},), with the comma; the name of a file must be one that exists"
        )
    return tuple(map(str, names)) if isinstance(names, Sequence) else None


def difference(ours: Sequence[str], theirs: Sequence[str], our_name: str, their_name: str) -> str | None:
    """Describe how two lists of class names differ.

    Args:
        ours (Sequence[str]): Class names, in the order of the labels.
        theirs (Sequence[str]): Likewise.
        our_name (str): What the first list belongs to, such as ``the training set``.
        their_name (str): What the second list belongs to.

    Returns:
        str | None: One clause, with both lists; None if they are the same.
    """
    if tuple(ours) == tuple(theirs):
        return None
    missing = [name for name in ours if name not in set(theirs)]
    surplus = [name for name in theirs if name not in set(ours)]
    parts = [f"only {our_name} has {quoted(missing)}"] if missing else []
    parts += [f"only {their_name} has {quoted(surplus)}"] if surplus else []
    if not parts:
        position = next((i for i, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), None)
        if position is None:
            parts = ["one of them repeats names"]
        else:
            parts = [
                f"the order differs: label {position} is {ours[position]!r} in {our_name} and {theirs[position]!r} in "
                f"{their_name}"
            ]
    return f"{'; '.join(parts)} ({our_name}: {listed(ours)}; {their_name}: {listed(theirs)})"


def is_renamed(ours: Sequence[str], theirs: Sequence[str]) -> bool:
    """Tell whether two lists differ in the spelling of names only: as many, and no name at another position."""
    return len(ours) == len(theirs) and not any(
        one != other and (one in set(theirs) or other in set(ours)) for one, other in zip(ours, theirs, strict=True)
    )


def listed(names: Sequence[str]) -> str:
    """Number and first names of a list of classes."""
    return f"{len(names)} classes, {', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"


def quoted(names: Iterable[str]) -> str:
    """Class names in quotation marks; the first ones of a long list."""
    names = list(names)
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(map(repr, names[:_LISTED])) + more


def leaf_datasets(dataset: Any) -> Iterator[Any]:
    """Yield the data sets that read annotations, which wrappers hold."""
    inner = [dataset.dataset] if hasattr(dataset, "dataset") else list(getattr(dataset, "datasets", ()))
    if not inner:
        yield dataset
    for part in inner:
        yield from leaf_datasets(part)
