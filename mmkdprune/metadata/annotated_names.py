"""Compare the class names of a detection set with those in its annotation files."""

import json
import mmap
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .class_names import ClassMismatchError, leaf_datasets, listed, quoted

MAX_IMAGES = 20_000  # of sets whose boxes are looked through
_FIRST_READ = 1 << 20  # bytes


def check_annotated_names(dataset: Any, field: str, count_boxes: bool) -> None:
    """Refuse a detection set whose class names are not those of its annotation file.

    In a COCO file the labels follow the order of ``categories``, whatever the order of ``metainfo.classes``; a name
    that the file does not have shifts the labels of all that follow. In other JSON files ``metainfo.classes`` gives the
    order. In VOC's XML files boxes of an unknown name are left out.

    Args:
        dataset (Any): The data set, or a wrapper of some.
        field (str): Its place in the config, such as ``train_dataloader.dataset``.
        count_boxes (bool): Refuse a VOC set of whose classes one has no box while the files have a name that is not a
            class; for training sets, which have boxes of every class.

    Raises:
        ClassMismatchError: If names or their order differ.
    """
    for leaf in leaf_datasets(dataset):
        classes = (getattr(leaf, "metainfo", None) or {}).get("classes")
        if not isinstance(classes, Sequence) or isinstance(classes, str):
            continue
        wanted = tuple(map(str, classes))
        file = str(getattr(leaf, "ann_file", "") or "")
        if file.endswith(".json") and os.path.isfile(file):
            _check_json(file, wanted, hasattr(leaf, "cat_ids"), field)
        elif count_boxes and hasattr(leaf, "cat2label") and hasattr(leaf, "ann_subdir"):
            _check_xml(leaf, wanted, field)


def _check_json(file: str, wanted: tuple[str, ...], is_coco: bool, field: str) -> None:
    named = categories(file) if is_coco else _metainfo_classes(file)
    if named is None:
        return
    missing = [name for name in wanted if name not in named]
    if missing:
        raise ClassMismatchError(
            f"{field}: {file} has no class {quoted(missing)}; wanted by metainfo.classes: {listed(wanted)}; found in "
            f"the file: {listed(named)}. Labels would shift, or boxes be lost: set "
            f"{field}.metainfo=dict(classes={_as_tuple(named)}), or correct the names in the file"
        )
    order = tuple(name for name in named if name in set(wanted))
    if order != wanted and sorted(order) == sorted(wanted):
        raise ClassMismatchError(
            f"{field}: metainfo.classes has the order {', '.join(wanted)}, but labels follow the order in {file}, "
            f"{', '.join(order)}: set {field}.metainfo=dict(classes={_as_tuple(order)}), for every data set and in the "
            "annotation files alike"
        )
    if not is_coco and named != wanted:
        raise ClassMismatchError(
            f"{field}: metainfo.classes is {listed(wanted)}, but the labels in {file} count {listed(named)}: set "
            f"{field}.metainfo=dict(classes={_as_tuple(named)}), or leave it out"
        )


def _as_tuple(names: Sequence[str]) -> str:
    return repr(tuple(names)) if len(names) <= 20 else f"({', '.join(map(repr, names[:3]))}, ...)"


def categories(file: str) -> tuple[str, ...] | None:
    """Read the names of a COCO file's categories, in its order, without reading its annotations.

    Args:
        file (str): A JSON file.

    Returns:
        tuple[str, ...] | None: The names; None if there are none in the form of COCO.
    """
    found = _json_value(file, "categories", "[")
    if isinstance(found, list) and found and all(isinstance(entry, dict) and "name" in entry for entry in found):
        return tuple(str(entry["name"]) for entry in found)
    return None


def _metainfo_classes(file: str) -> tuple[str, ...] | None:
    found = _json_value(file, "metainfo", "{")
    classes = found.get("classes") if isinstance(found, dict) else None
    return tuple(map(str, classes)) if isinstance(classes, list) else None


def _json_value(file: str, key: str, opening: str) -> Any:
    """Value of a key of the outermost object, found without parsing what stands before and after it."""
    if not os.path.getsize(file):
        return None
    with open(file, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for match in re.finditer(rb'"%s"\s*:\s*\%s' % (key.encode(), opening.encode()), content):
            start, size = match.end() - 1, _FIRST_READ
            while True:
                try:
                    text = content[start : start + size].decode("utf-8", errors="ignore")
                    value = json.JSONDecoder().raw_decode(text)[0]
                except ValueError:
                    if start + size >= len(content):
                        break
                    size *= 8
                    continue
                if value and (opening == "{" or isinstance(value[0], dict)):
                    return value
                break
    return None


def _check_xml(dataset: Any, wanted: tuple[str, ...], field: str) -> None:
    number = len(dataset)
    if number > MAX_IMAGES:
        return
    seen = {label for index in range(number) for label in dataset.get_cat_ids(index)}
    absent = [name for label, name in enumerate(wanted) if label not in seen]
    if not absent:
        return
    unknown = [name for name in annotated_names(dataset) if name not in wanted]
    if unknown:
        raise ClassMismatchError(
            f"{field}: no box of {type(dataset).__name__} has the class {quoted(absent)}, and its XML files have "
            f"{quoted(unknown)}, which metainfo.classes does not name (wanted: {listed(wanted)}). Boxes of unknown "
            f"names are left out: correct {field}.metainfo.classes"
        )


def annotated_names(dataset: Any) -> tuple[str, ...]:
    """Class names in the annotation files of a detection set, of COCO's or VOC's form; empty for others.

    Args:
        dataset (Any): One data set, no wrapper.
    """
    file = str(getattr(dataset, "ann_file", "") or "")
    if file.endswith(".json") and os.path.isfile(file):
        return categories(file) or _metainfo_classes(file) or ()
    if not (hasattr(dataset, "ann_subdir") and hasattr(dataset, "sub_data_root")) or not os.path.isfile(file):
        return ()
    names: dict[str, None] = {}
    for image in Path(file).read_text(encoding="utf-8").split()[:MAX_IMAGES]:
        path = Path(dataset.sub_data_root, dataset.ann_subdir, f"{image}.xml")
        try:
            objects = ElementTree.parse(path).getroot().iterfind("object/name")
        except (OSError, ElementTree.ParseError):
            continue
        names.update(dict.fromkeys(node.text or "" for node in objects))
    return tuple(names)
