"""Say why a data set is empty; MMEngine ends with NumPy's "need at least one array to concatenate"."""

from collections.abc import Callable, Sequence
from typing import Any

from mmkdprune.compat.patching import patch


class EmptyDatasetError(ValueError):
    """No image of a data set is left after filtering."""


def _explained(original: Callable) -> Callable:
    def serialize_data(self: Any) -> Any:
        if not self.data_list:
            raise EmptyDatasetError(explain_empty(self))
        return original(self)

    return serialize_data


def explain_empty(dataset: Any) -> str:
    """Word the message about a data set without images: the files, the class names wanted and those found.

    Args:
        dataset (Any): A data set of MMEngine's kind.
    """
    from .annotated_names import annotated_names
    from .class_names import listed

    classes = (getattr(dataset, "metainfo", None) or {}).get("classes")
    text = f"{type(dataset).__name__} has no image left"
    file, folder = getattr(dataset, "ann_file", ""), getattr(dataset, "data_prefix", None)
    text += f" (ann_file={str(file)!r}, data_prefix={folder!r}, filter_cfg={getattr(dataset, 'filter_cfg', None)!r})"
    if isinstance(classes, str):
        return (
            f"{text}: metainfo.classes is the string {classes!r}, whose letters are not class names: write a tuple, "
            f"classes=({classes!r},), with the comma"
        )
    found = annotated_names(dataset)
    if isinstance(classes, Sequence) and found and not set(classes) & set(found):
        return (
            f"{text}: none of its boxes has a class of metainfo.classes. Wanted: {listed(tuple(map(str, classes)))}; "
            f"found in the annotations: {listed(found)}. Set metainfo.classes to the names in the annotations"
        )
    wanted = f"; classes wanted: {listed(tuple(map(str, classes)))}" if isinstance(classes, Sequence) else ""
    there = f"; found in the annotations: {listed(found)}" if found else ""
    return f"{text}{wanted}{there}. Correct ann_file, data_prefix or filter_cfg"


def patch_empty_dataset() -> None:
    """Makes every data set of MMEngine's kind name the reason when it is empty."""
    from mmengine.dataset import BaseDataset

    patch(BaseDataset, "_serialize_data", _explained)
