"""Tiny data sets for detectors and segmentors, configs cut down to them, and backbones to move."""

import json
from pathlib import Path

import numpy as np
import torch
from compaction_nets import NETS, SIZE, TABLE, build, randomise
from mmengine.config import Config
from PIL import Image
from testing_helpers import REPOSITORY
from torch import nn

from mmkdprune.checkpoint.loading import load_checkpoint_file
from mmkdprune.deploy.network import build_network
from mmkdprune.deploy.transfer import Transfer
from mmkdprune.pruning import compact, make_pruner

FOLDER = REPOSITORY / "configs" / "transfer"
RETINANET, FCN = "detection/retinanet_r50_fpn_1x_coco", "segmentation/fcn_r50-d8_4xb4-40k_ade20k-512x512"
NARROW = NETS["resnet50"]
NARROW_OPTIONS = {"model.backbone.base_channels": 16, "model.backbone.stem_channels": 16}
IMAGES, PIXELS = 4, 64
COLOURS = {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375], "to_rgb": True}
_COCO = """
_base_ = '{base}'
train_cfg = dict(max_epochs=1)
model = dict(backbone=dict(base_channels=16, stem_channels=16), test_cfg={test_cfg})
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs')]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True, with_mask={masks}),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'))]
data = dict(data_root='{data}', ann_file='coco.json', data_prefix=dict(img='images'))
train_dataloader = dict(num_workers=0, dataset=dict(pipeline=pipeline, **data))
val_dataloader = dict(num_workers=0, dataset=dict(pipeline=test_pipeline, **data))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file='{data}/coco.json')
test_evaluator = val_evaluator
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(save_optimizer=False))
"""
_SEMANTIC = """
_base_ = '{base}'
train_cfg = dict(max_iters=2, val_interval=2)
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(base_channels=16, stem_channels=16))
pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]
data = dict(
    data_root='{data}', data_prefix=dict(img_path='images', seg_map_path='maps'), pipeline=pipeline,
    img_suffix='.png', seg_map_suffix='.png')
train_dataloader = dict(batch_size=2, num_workers=0, persistent_workers=False, dataset=dict(**data))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(**data))
test_dataloader = val_dataloader
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2, save_optimizer=False))
"""


def write_scenes(folder: Path) -> Path:
    """Images with a bright rectangle each, as COCO annotations with masks and as maps of classes."""
    from mmdet.datasets import CocoDataset

    generator = np.random.default_rng(0)
    images, annotations = [], []
    for name in ("images", "maps"):
        (folder / name).mkdir(parents=True)
    for index in range(IMAGES):
        pixels = generator.integers(0, 128, (PIXELS, PIXELS, 3), dtype=np.uint8)
        left, top, width, height = 8 + index, 6, 40, 32
        pixels[top : top + height, left : left + width] += 100
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        classes = np.ones((PIXELS, PIXELS), dtype=np.uint8)
        classes[top : top + height, left : left + width] = 2
        Image.fromarray(classes).save(folder / "maps" / f"{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "width": PIXELS, "height": PIXELS})
        right, bottom = left + width, top + height
        annotations.append(
            {
                "id": index + 1, "image_id": index, "category_id": 1 + index % 2, "iscrowd": 0,
                "bbox": [left, top, width, height], "area": width * height,
                "segmentation": [[left, top, right, top, right, bottom, left, bottom]],
            }
        )  # fmt: skip
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(CocoDataset.METAINFO["classes"])]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(content))
    return folder


def small_config(base: Path, scenes: Path, folder: Path) -> Path:
    """A transfer config on the tiny data, with a narrow backbone whose widths it does not know yet."""
    text = _COCO if base.parent.name == "detection" else _SEMANTIC
    path = folder / f"{base.stem}.py"
    # Of hardly trained heads no box is kept but with a threshold of 0, and without boxes there are no metrics.
    few = {"score_thr": 0.0, "max_per_img": 5}
    test_cfg = few if "retinanet" in base.stem else {"rcnn": few}
    path.write_text(text.format(base=base, data=scenes, masks="mask" in base.stem, test_cfg=test_cfg))
    return path


def backbone_settings(config: Config) -> dict:
    """MMPretrain's settings of the backbone of a config, as far as they decide about keys and shapes."""
    names = ("depth", "base_channels", "stem_channels")
    return {"type": "ResNet", **{name: config.model.backbone[name] for name in names if name in config.model.backbone}}


def save_backbone(path: Path, settings: dict, prefix: str = "backbone.", state: dict | None = None, **meta) -> Path:
    """What ``tools/export_backbone.py`` writes, of random weights unless some are given."""
    if state is None:
        torch.manual_seed(0)
        state = randomise(build(settings)).state_dict()
    scoped = settings if "." in settings["type"] else {**settings, "type": f"mmpretrain.{settings['type']}"}
    model = {"type": "mmpretrain.ImageClassifier", "backbone": scoped, "data_preprocessor": COLOURS}
    content = {"meta": {"model": model, **meta}, "state_dict": {prefix + key: value for key, value in state.items()}}
    torch.save(content, path)
    return path


def save_pruned(folder: Path, settings: dict, coupling: str) -> tuple[Path, Path]:
    """A pruned ResNet, as zeros and as a compact one with its plan in the checkpoint and beside it."""
    torch.manual_seed(1)
    model = randomise(TABLE.Classifier(build({**settings, "out_indices": (0, 1, 2, 3)}), SIZE)).eval()
    pruner = make_pruner(model, "hfp", 0.4, coupling=coupling)
    pruner.step(0, 1)
    pruner.finalize()
    settings = {**settings, "type": "mmpretrain.ResNet"}
    zeroed = save_backbone(folder / f"zeroed_{coupling}.pth", settings, state=model.backbone.state_dict())
    small, plan = compact(model, (3, PIXELS, PIXELS))
    compact_settings = {"type": "mmkdprune.CompactBackbone", "backbone": settings, "plan": plan.to_dict()}
    (folder / coupling).mkdir()
    (folder / coupling / "plan.json").write_text(plan.dumps())
    return zeroed, save_backbone(folder / coupling / "compact.pth", compact_settings, state=small.backbone.state_dict())


def backbone_state(checkpoint: Path) -> dict:
    """Weights of the backbone in a checkpoint, without the prefix."""
    state = load_checkpoint_file(checkpoint)["state_dict"]
    return {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}


class DenseBackbones:
    """Exported backbones by what decides about their keys and shapes, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, settings: dict) -> Path:
        path = self.folder / f"{'_'.join(map(str, settings.values()))}.pth"
        return path if path.is_file() else save_backbone(path, settings)


class PrunedBackbones:
    """A narrow ResNet-50 with zeros and as a compact one, by coupling, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.made = folder, {}

    def __getitem__(self, coupling: str) -> tuple[Path, Path]:
        if coupling not in self.made:
            self.made[coupling] = save_pruned(self.folder, NARROW, coupling)
        return self.made[coupling]


def fits(transfer: Transfer) -> bool:
    """Whether every key of the backbone was in the file, with its shape, and no other."""
    return not any((transfer.report.missing, transfer.report.unexpected, transfer.report.mismatched))


def build_model(transfer: Transfer) -> nn.Module:
    """The whole model of an adapted config."""
    return build_network(transfer.config.model.to_dict(), transfer.config.default_scope)


def check_loaded(config: Config, checkpoint: str | Path) -> None:
    """Build a model, fill its backbone as the config says, and run it."""
    model = build_network(config.model.to_dict(), config.default_scope)
    model.backbone.init_weights()
    state, wanted = model.backbone.state_dict(), backbone_state(Path(checkpoint))
    assert state.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[key]) for key, value in state.items())
    with torch.no_grad():
        model.eval().extract_feat(torch.randn(1, 3, PIXELS, PIXELS))
