"""Small data sets as files: pictures in folders, boxes in COCO's and VOC's form, masks."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from mmengine.dataset import DefaultSampler
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

NAMES = ("ant", "bee", "cat")
# Serialising collects garbage, which takes half a second in a process that has imported all packages.
QUICK = {"serialize_data": False}
STEPS = [{"type": "LoadImageFromFile"}, {"type": "PackInputs"}]


def picture(path: Path, value: int = 0, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), (200, 100 + value, 10), np.uint8)).save(path)


def folders(root: Path, names: Sequence[str] = NAMES, images: int = 2) -> str:
    """A folder of PNG files for each class."""
    for value, name in enumerate(names):
        for number in range(images):
            picture(root / name / f"{number}.png", value)
    return str(root)


def folder_set(root: Path, names: Sequence[str] = NAMES, **options: Any) -> dict[str, Any]:
    return {
        "type": "mmpretrain.CustomDataset",
        "data_prefix": folders(root, names),
        "pipeline": STEPS,
        **QUICK,
        **options,
    }


def listed_set(root: Path, labels: Sequence[int], **options: Any) -> dict[str, Any]:
    """Pictures with a file that lists their labels."""
    folders(root / "pictures", ["all"], len(labels))
    (root / "list.txt").write_text("".join(f"all/{number}.png {label}\n" for number, label in enumerate(labels)))
    places = {"ann_file": str(root / "list.txt"), "data_prefix": str(root / "pictures")}
    return {"type": "mmpretrain.CustomDataset", **places, "pipeline": STEPS, **QUICK, **options}


def coco_set(root: Path, names: Sequence[str] = NAMES, classes: Any = NAMES, **options: Any) -> dict[str, Any]:
    """Two pictures with a box of every class in COCO's form; ``names`` are those in the file."""
    images, boxes = [], []
    for number in range(2):
        picture(root / f"{number}.png", size=40)
        images.append({"id": number, "file_name": f"{number}.png", "width": 40, "height": 40})
        for category in range(len(names)):
            box = {"id": len(boxes) + 1, "image_id": number, "category_id": category + 1, "iscrowd": 0}
            boxes.append({**box, "bbox": [2 + 10 * category, 4, 8, 8], "area": 64})
    categories = [{"id": number + 1, "name": name} for number, name in enumerate(names)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content))
    metainfo = {} if classes is None else {"metainfo": {"classes": classes}}
    filters = {} if options.get("test_mode") else {"filter_cfg": {"filter_empty_gt": True}}
    places = {"ann_file": str(root / "boxes.json"), "data_prefix": {"img": str(root)}}
    return {"type": "mmdet.CocoDataset", **places, "pipeline": [], **metainfo, **filters, **QUICK, **options}


def voc_set(root: Path, names: Sequence[str] = NAMES, classes: Any = NAMES, **options: Any) -> dict[str, Any]:
    """Pictures with one box each in VOC's form."""
    (root / "Annotations").mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        picture(root / "JPEGImages" / f"{number}.jpg", size=40)
        box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
        size = "<size><width>40</width><height>40</height></size>"
        text = f"<annotation>{size}<object><name>{name}</name><difficult>0</difficult>{box}</object></annotation>"
        (root / "Annotations" / f"{number}.xml").write_text(text)
    (root / "list.txt").write_text("".join(f"{number}\n" for number in range(len(names))))
    places = {"ann_file": str(root / "list.txt"), "data_prefix": {"sub_data_root": str(root)}}
    return {"type": "mmdet.XMLDataset", **places, "metainfo": {"classes": classes}, "pipeline": [], **QUICK, **options}


def mask_set(root: Path, values: Sequence[int], classes: Any = NAMES, **options: Any) -> dict[str, Any]:
    """Pictures with masks that hold these values."""
    for number in range(2):
        picture(root / "images" / f"{number}.png")
        (root / "masks").mkdir(exist_ok=True)
        mask = np.resize(np.asarray(values, np.uint8), (8, 8))
        Image.fromarray(mask).save(root / "masks" / f"{number}.png")
    steps = [{"type": "LoadImageFromFile"}, {"type": "mmseg.LoadAnnotations"}]
    metainfo = {} if classes is None else {"metainfo": {"classes": classes}}
    places = {"data_root": str(root), "data_prefix": {"img_path": "images", "seg_map_path": "masks"}}
    suffixes = {"img_suffix": ".png", "seg_map_suffix": ".png"}
    return {"type": "mmseg.BaseSegDataset", **places, **suffixes, "pipeline": steps, **metainfo, **QUICK, **options}


def build(settings: Any) -> Any:
    """Build a data set as a runner of MMPretrain would; other packages by the scope in the type's name."""
    scope = str(settings["type"]).partition(".")[0] if "." in str(settings["type"]) else "mmpretrain"
    with DefaultScope.overwrite_default_scope(scope):
        return DATASETS.build(settings)


class Head(nn.Module):
    """What predicts so many classes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.fc = nn.Linear(1, num_classes)


def model_with(**heads: int) -> nn.Module:
    """A model with heads; ``roi_head__bbox_head=3`` is one inside another module."""
    model = nn.Module()
    for name, number in heads.items():
        *outer, last = name.split("__")
        owner = model
        for part in outer:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = owner.get_submodule(part)
        owner.add_module(last, Head(number))
    return model


class Log:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.lines: list[str] = []

    def warning(self, text: str) -> None:
        self.warnings.append(text)

    def info(self, text: str) -> None:
        self.lines.append(text)


def runner_for(model: nn.Module, train: Any, val: Any = None, test: Any = None, iteration: int = 0) -> Any:
    """What a hook sees of a runner; data sets may be configs."""
    from mmengine.runner import BaseLoop

    class Loop(BaseLoop):
        def __init__(self, dataset: Any) -> None:
            self.dataloader = DataLoader(dataset, sampler=DefaultSampler(dataset, shuffle=False))

        def run(self) -> None: ...

    def loader(dataset: Any) -> Any:
        return SimpleNamespace(dataset=build(dataset) if isinstance(dataset, dict) else dataset)

    runner = SimpleNamespace(model=model, logger=Log(), iter=iteration, train_dataloader=loader(train))
    runner._train_loop = Loop(runner.train_dataloader.dataset)
    runner._val_loop = None if val is None else Loop(loader(val).dataset)
    runner._val_dataloader = {"dataset": val}
    runner._test_dataloader = None if test is None else {"dataset": test}
    return runner


def runner_for_test(model: nn.Module, test: Any) -> Any:
    """What a hook sees of a runner that tests."""
    test = build(test) if isinstance(test, dict) else test
    runner = runner_for(model, test, val=test)
    runner._train_loop = {}
    runner.test_loop = runner._val_loop
    return runner
