"""Configs of the small real sets: blood cells, CamVid, a few images of COCO. What is not there is skipped."""

import re

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, init_default_scope
from testing_helpers import REPOSITORY, count_parameters

from mmkdprune.deploy.network import build_network

FOLDER = REPOSITORY / "configs" / "transfer"
SMALL = [
    path for path in sorted(FOLDER.glob("*/*.py")) if re.search(r"_(digit-scenes|bccd|camvid|coco-mini)", path.stem)
]
CELLS = ("RBC", "WBC", "Platelets")
SETS = {
    "detection/retinanet_r18_fpn_1xb4-1x_bccd": ("bccd", (205, 87, 72)),
    "detection/retinanet_r18-w16_fpn_1xb8-16e_bccd-320x240": ("bccd", (205, 87, 72)),
    "detection/retinanet_r18-w16-cifar100_fpn_1xb8-16e_bccd-320x240": ("bccd", (205, 87, 72)),
    "detection/faster-rcnn_r18_fpn_1xb4-1x_bccd-voc": ("bccd", (205, 87, 72)),
    "detection/faster-rcnn_r18_fpn_1xb4-1x_coco-mini": ("coco", (175, 177, 177)),  # three training images have no box
    "segmentation/fpn_r18-w16_1xb8-800_camvid-240x180": ("camvid", (367, 101, 233)),
    "segmentation/fpn_r18-w16-cifar100_1xb8-800_camvid-240x180": ("camvid", (367, 101, 233)),
    "segmentation/deeplabv3_r18-d8_1xb8-4k_camvid-240x180": ("camvid", (367, 101, 233)),
}


@pytest.fixture(autouse=True)
def _packages(one_thread):
    pytest.importorskip("mmdet")
    pytest.importorskip("mmseg")


def read(name: str) -> Config:
    config = Config.fromfile(FOLDER / f"{name}.py")
    init_default_scope(config.default_scope)
    return config


def build(config: Config, part: str):
    settings = config[f"{part}_dataloader"].dataset
    return DATASETS.build({**settings, "data_root": str(REPOSITORY / settings.data_root)})


@pytest.mark.parametrize("name", SETS)
def test_classes_are_those_of_the_heads(name):
    config = read(name)
    sets = [config[f"{part}_dataloader"].dataset for part in ("train", "val", "test")]
    if "coco-mini" in name:
        assert all("metainfo" not in one for one in sets)
        assert config.model.roi_head.bbox_head.num_classes == 80
        return
    assert all(one.metainfo == sets[0].metainfo for one in sets)
    classes, palette = sets[0].metainfo.classes, sets[0].metainfo.palette
    model = config.model
    head = model.decode_head if "decode_head" in model else model.get("bbox_head") or model.roi_head.bbox_head
    assert head.num_classes == len(classes) == len(palette)
    if "bccd" in name:
        assert classes == CELLS
    batch = int(name.split("_1xb")[1].split("-")[0])
    assert config.train_dataloader.batch_size == config.auto_scale_lr.base_batch_size == batch


@pytest.mark.parametrize("path", SMALL, ids=lambda path: path.stem)
def test_metafile_has_length_batch_and_data(path):
    config = Config.fromfile(path)
    models = yaml.safe_load((path.parent / "metafile.yml").read_text())["Models"]
    (facts,) = (model["Metadata"] for model in models if model["Name"] == path.stem)
    assert facts["Batch Size"] == config.auto_scale_lr.base_batch_size
    assert facts.get("Epochs", facts.get("Iterations")) in config.train_cfg.values()
    data = facts["Training Data"].replace("178 images of COCO 2017", "coco-mini").replace("DigitScenes", "digit-scenes")
    assert f"_{data.lower()}" in path.stem


@pytest.mark.parametrize("name", SETS)
def test_images_and_annotations_are_read(name):
    folder, numbers = SETS[name]
    if not (REPOSITORY / "data" / folder).is_dir():
        pytest.skip(f"data/{folder} is not there")
    config = read(name)
    for part, number in zip(("train", "val", "test"), numbers, strict=True):
        dataset = build(config, part)
        assert len(dataset) == number
    entry = dataset[0]["data_samples"]
    if "detection" in name:
        labels = {label for index in range(len(dataset)) for label in dataset.get_cat_ids(index)}
        assert labels <= set(range(80)) if folder == "coco" else labels == {0, 1, 2}
        boxes = entry.gt_instances.bboxes.tensor
        assert (boxes[:, 2:] > boxes[:, :2]).all()
    else:
        values = set(np.unique(entry.gt_sem_seg.data.numpy()))
        assert len(values) > 3
        assert values <= {*range(11), 255}
        assert entry.gt_sem_seg.shape == entry.ori_shape == (180, 240)


@pytest.mark.parametrize(
    "name",
    ["detection/retinanet_r18-w16_fpn_1xb8-16e_bccd-320x240", "segmentation/fpn_r18-w16_1xb8-800_camvid-240x180"],
)
def test_small_networks_learn_from_them(name):
    """The loss of one batch falls, and its metric can be computed."""
    folder, _ = SETS[name]
    if not (REPOSITORY / "data" / folder).is_dir():
        pytest.skip(f"data/{folder} is not there")
    config = read(name)
    config.model.backbone.init_cfg = None
    torch.manual_seed(0)
    model = build_network(config.model.to_dict(), config.default_scope)
    models = yaml.safe_load((FOLDER / name.split("/")[0] / "metafile.yml").read_text())["Models"]
    (facts,) = (one["Metadata"] for one in models if one["Name"] == name.split("/")[1])
    assert facts["Parameters"] == count_parameters(model)
    model.init_weights()
    dataset = build(config, "train")
    batch = model.data_preprocessor(pseudo_collate([dataset[index] for index in (0, 50)]), training=True)
    optimizer = torch.optim.Adam(model.train().parameters(), lr=2e-3)
    losses = []
    for _ in range(8):
        loss, _ = model.parse_losses(model(**batch, mode="loss"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("detection/retinanet_r18-w16_fpn_1xb8-16e_bccd-320x240", "instances_train.json"),
        ("segmentation/fpn_r18-w16_1xb8-800_camvid-240x180", "img_dir/train"),
    ],
)
def test_a_set_that_is_not_there_is_explained(name, missing, tmp_path, call, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = call("train.py", FOLDER / f"{name}.py", "--cfg-options", "model.backbone.init_cfg=None")
    assert code == 1
    assert missing in output
    assert "Put them there, link them (ln -s /path/to/the/data" in output
