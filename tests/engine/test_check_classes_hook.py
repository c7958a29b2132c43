"""Classes of data sets, heads and checkpoints: pictures in folders, COCO's and VOC's boxes, masks."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from labelled_sets import (
    NAMES,
    build,
    coco_set,
    folder_set,
    folders,
    listed_set,
    mask_set,
    model_with,
    runner_for,
    runner_for_test,
    voc_set,
)
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, DefaultScope
from testing_helpers import REPOSITORY, Labelled

from mmkdprune.engine.hooks import CheckClassesHook
from mmkdprune.metadata.class_names import ClassMismatchError, LabelRangeError
from mmkdprune.metadata.empty_dataset import EmptyDatasetError

OTHER_ORDER = ("bee", "ant", "cat")
HEADS = {"folders": "head", "coco": "bbox_head", "masks": "decode_head"}


def settings_of(kind, root, classes=NAMES, **options):
    """One of the three kinds of data sets with these class names."""
    if kind == "folders":
        return listed_set(root, range(len(classes)), metainfo={"classes": classes}, **options)
    if kind == "coco":
        return coco_set(root, names=classes, classes=classes, **options)
    return mask_set(root, range(len(classes)), classes, **options)


def checked(kind, train, val=None, number=3, **options):
    runner = runner_for(model_with(**{HEADS[kind]: number}), train, val)
    CheckClassesHook(**options).before_train(runner)
    return runner.logger.warnings


@pytest.fixture(params=HEADS)
def kind(request):
    return request.param


@pytest.fixture
def roots(tmp_path):
    for name in ("train", "val", "test"):
        (tmp_path / name).mkdir()
    return tmp_path / "train", tmp_path / "val", tmp_path / "test"


def test_the_same_classes_pass_in_silence(kind, roots):
    train, val = settings_of(kind, roots[0]), settings_of(kind, roots[1])
    assert checked(kind, train, val) == []
    assert checked(kind, train, {"type": "RepeatDataset", "times": 2, "dataset": val}) == []


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (OTHER_ORDER, "the order differs: label 0 is 'ant' in the training set and 'bee' in the validation set"),
        (("ant", "cat"), "only the training set has 'bee'"),
        (("ant", "bee", "cat", "dog"), "only the validation set has 'dog'"),
        (("ant", "bee", "cow"), "only the training set has 'cat'; only the validation set has 'cow'"),
    ],
)
def test_a_validation_set_of_other_classes(kind, roots, classes, message):
    train, val = settings_of(kind, roots[0]), settings_of(kind, roots[1], classes)
    with pytest.raises(ClassMismatchError, match="training set and of the validation set differ") as caught:
        checked(kind, train, val)
    for text in (message, "3 classes, ant, bee, cat", "metainfo=dict(classes=", "allow_other_classes=True"):
        assert text in str(caught.value)
    warnings = checked(kind, train, val, allow_other_classes=True)
    assert message in warnings[0]
    assert all("accepted (allow_other_classes=True)" in warning for warning in warnings)


def test_folders_of_which_one_is_missing(tmp_path):
    train, val = folder_set(tmp_path / "train"), folder_set(tmp_path / "val", ("ant", "cat"))
    with pytest.raises(ClassMismatchError, match=r"only the training set has 'bee'.*an empty folder stands for"):
        checked("folders", train, val)
    (tmp_path / "val" / "bee").mkdir()
    assert checked("folders", train, val) == []


def test_a_test_set_of_other_classes(kind, roots):
    train, val = settings_of(kind, roots[0]), settings_of(kind, roots[1])
    model = model_with(**{HEADS[kind]: 3})
    test = settings_of(kind, roots[2], OTHER_ORDER)
    runner = runner_for(model, train, val, test)
    CheckClassesHook().before_train(runner)
    (warning,) = runner.logger.warnings
    assert "the classes of the training set and of test_dataloader differ: the order differs: label 0" in warning
    absent = {"type": "mmpretrain.CustomDataset", "ann_file": "absent.txt"}
    for test in (settings_of(kind, roots[2]), val, absent):
        runner = runner_for(model, train, val, test)
        CheckClassesHook().before_train(runner)
        assert runner.logger.warnings == []


def test_a_head_with_fewer_classes_than_the_data(kind, roots):
    settings = settings_of(kind, roots[0])
    message = (
        rf"has 3 classes, ant, bee, cat, but model.{HEADS[kind]}.num_classes is 2: set model.{HEADS[kind]}.num_cla"
    )
    for options in ({}, {"allow_unused": True, "allow_other_classes": True}):
        with pytest.raises(ClassMismatchError, match=message):
            checked(kind, settings, number=2, **options)


def test_a_head_with_more_classes_than_the_data(kind, roots):
    settings = settings_of(kind, roots[0])
    (warning,) = checked(kind, settings, settings, number=4)
    assert f"model.{HEADS[kind]}.num_classes is 4: set model.{HEADS[kind]}.num_classes=3" in warning
    assert "allow_unused=True" in warning
    assert checked(kind, settings, number=4, allow_unused=True) == []


@pytest.mark.parametrize(
    "place", ["roi_head__bbox_head", "roi_head__mask_head", "mask_head", "auxiliary_head", "peers__1__head"]
)
def test_every_head_is_compared(tmp_path, place):
    heads = {"bbox_head": 3, place: 2}
    with pytest.raises(ClassMismatchError, match=f"but model.{place.replace('__', '.')}.num_classes is 2"):
        CheckClassesHook().before_train(runner_for(model_with(**heads), coco_set(tmp_path)))
    CheckClassesHook().before_train(runner_for(model_with(**{**heads, place: 3}), coco_set(tmp_path)))


def test_heads_of_other_tasks_are_not(tmp_path):
    class RPNHead(type(model_with(head=1).head)):
        pass

    model = model_with(bbox_head=3)
    model.rpn_head = RPNHead(1)
    runner = runner_for(model, coco_set(tmp_path))
    CheckClassesHook().before_train(runner)
    assert runner.logger.warnings == []


def test_names_given_as_a_string(kind, roots):
    settings = settings_of(kind, roots[0], ("ant",))
    settings["metainfo"] = {"classes": "ant"}
    with pytest.raises(ClassMismatchError, match=r"the string 'ant', which would count as 3 classes.*\('ant',\)"):
        checked(kind, settings)
    with pytest.raises(ClassMismatchError, match=r"val_dataloader.dataset.metainfo: classes is the string 'ant'"):
        checked(kind, settings_of(kind, roots[1], ("ant",)), settings, number=1)


@pytest.mark.parametrize(
    ("labels", "hint"), [([1, 2, 3], "labels seem to count from 1"), ([0, 1, 7], "correct the ann")]
)
def test_labels_outside_the_range(roots, labels, hint):
    for kind, settings in (
        ("folders", lambda root: listed_set(root, labels)),
        ("folders", lambda root: listed_set(root, labels, metainfo={"classes": NAMES})),
        ("masks", lambda root: mask_set(root, labels)),
        ("masks", lambda root: mask_set(root, [*labels, 255], classes=None)),
    ):
        with pytest.raises(
            LabelRangeError, match=rf"training set .* has the label {labels[2]}, outside 0 ... 2.*{hint}"
        ):
            checked(kind, settings(roots[0]), allow_other_classes=True)
        for val in (settings(roots[1]), {"type": "RepeatDataset", "times": 2, "dataset": settings(roots[1])}):
            with pytest.raises(LabelRangeError, match=rf"validation set .* label {labels[2]}, outside 0 ... 2.*{hint}"):
                checked(kind, settings_of(kind, roots[2]), val)
            (warning,) = checked(kind, settings_of(kind, roots[2]), val, allow_other_classes=True)
            assert "accepted" in warning


def test_labels_from_1_of_a_large_enough_head(roots):
    for kind, settings in (
        ("folders", listed_set(roots[0], [1, 2, 3])),
        ("masks", mask_set(roots[1], [1, 2, 3], None)),
    ):
        (warning,) = checked(kind, settings, number=4)
        assert "has the label 0, all of 1 ... 3 occur" in warning
        assert checked(kind, settings, number=4, allow_unused=True) == []


def test_masks_with_a_reduced_zero_label_or_some_of_the_classes(tmp_path):
    assert checked("masks", mask_set(tmp_path, [0, 1, 2, 3], reduce_zero_label=True)) == []
    with pytest.raises(LabelRangeError, match="has the label 3"):
        checked("masks", mask_set(tmp_path, [0, 1, 4], reduce_zero_label=True))


def test_a_set_without_names_and_a_larger_head(tmp_path):
    (warning,) = checked("folders", listed_set(tmp_path, [0, 1, 2]), number=5)
    assert "end with 2, but model.head.num_classes is 5: set it to 3" in warning


@pytest.mark.parametrize("labels", [[[0], [1, 7]], [[0], [1, 2]]])
def test_several_labels_per_image(labels):
    class Multi(torch.utils.data.Dataset):
        metainfo = {"classes": NAMES}

        def __len__(self):
            return len(labels)

        def get_cat_ids(self, index):
            return labels[index]

    if labels[1][1] == 7:
        with pytest.raises(
            LabelRangeError, match=r"image 1 of the training set Multi has the label 7.*\(1 of 2 images"
        ):
            checked("folders", Multi())
    else:
        assert checked("folders", Multi()) == []


def test_sets_without_usable_labels_are_left_alone():
    def unlabelled(self):
        raise KeyError("gt_label")

    for labels_of in (unlabelled, lambda self: [0.5, 7.0], lambda self: [[9], [9]], lambda self: []):

        class Toy(Labelled):
            metainfo = {"classes": NAMES}
            get_gt_labels = labels_of

        assert checked("folders", Toy([0, 1])) == []


def test_a_model_without_labels_or_heads(tmp_path):
    model = model_with(neck=7)
    CheckClassesHook().before_train(runner_for(model, folder_set(tmp_path)))


def test_coco_labels_follow_the_file(tmp_path):
    """MMDetection takes their order from the file, whatever the order in ``metainfo``."""
    settings = coco_set(tmp_path, names=("cat", "ant", "bee"), classes=NAMES)
    assert [build(settings).cat2label[number] for number in (1, 2, 3)] == [0, 1, 2]
    with pytest.raises(ClassMismatchError, match=r"order ant, bee, cat, but labels follow .*boxes.json, cat, ant, bee"):
        checked("coco", settings)
    (warning,) = checked("coco", settings, allow_other_classes=True)
    assert "accepted" in warning
    subset = coco_set(tmp_path, names=("ant", "ape", "bee", "cat"), classes=NAMES)
    assert checked("coco", subset) == []


def test_a_coco_file_without_a_wanted_class(roots):
    train = coco_set(roots[0], names=("ant", "bee", "cat"), classes=("ant", "be", "cat"))
    with pytest.raises(ClassMismatchError, match=r"has no class 'be'; wanted .*ant, be, cat; found in the file: 3 cla"):
        checked("coco", train)
    val = coco_set(roots[1], names=("ant", "cat"), test_mode=True)
    with pytest.raises(ClassMismatchError, match=r"val_dataloader.dataset: .*boxes.json has no class 'bee'"):
        checked("coco", coco_set(roots[0]), val)


def test_names_in_other_json_files(tmp_path):
    """There the names in the file give the order of the labels, and those of the config would hide it."""
    folders(tmp_path, ["all"])
    entries = [{"img_path": "all/0.png", "gt_label": 0}, {"img_path": "all/1.png", "gt_label": 2}]
    content = {"metainfo": {"classes": NAMES}, "data_list": entries}
    (tmp_path / "list.json").write_text(json.dumps(content))
    settings = {"type": "mmpretrain.BaseDataset", "ann_file": str(tmp_path / "list.json"), "pipeline": []}
    settings |= {"data_root": str(tmp_path), "serialize_data": False}
    assert checked("folders", settings) == []
    with pytest.raises(
        ClassMismatchError, match=r"order bee, ant, cat, but labels follow the order in .*ant, bee, cat"
    ):
        checked("folders", {**settings, "metainfo": {"classes": OTHER_ORDER}})
    with pytest.raises(ClassMismatchError, match=r"classes is 2 classes, ant, cat, but the labels in .* 3 classes"):
        checked("folders", {**settings, "metainfo": {"classes": ("ant", "cat")}}, number=2)


def test_masks_beyond_those_that_were_opened(tmp_path):
    """Metrics leave out values beyond the classes; each mask is looked at when it is evaluated."""
    runner = runner_for(model_with(decode_head=3), mask_set(tmp_path, [0, 1, 2]))
    hook = CheckClassesHook()

    def batch(*values):
        data = torch.tensor(values).reshape(1, 1, -1)
        return {"data_samples": [SimpleNamespace(gt_sem_seg=SimpleNamespace(data=data), img_path="a.png")]}

    for call in (hook.after_val_iter, hook.after_test_iter):
        call(runner, 0, batch(0, 2, 255))
        with pytest.raises(LabelRangeError, match=r"the mask of a.png of the .* set has the label 3, outside 0 ... 2"):
            call(runner, 0, batch(0, 3, 255))
        call(runner, 0, {"data_samples": [SimpleNamespace()]})


STOCK = (
    "mixskd/plain_resnet20_1xb64-20e_digits-16px",
    "moco_mcl/moco-mcl-x2_resnet8_1xb64-40e_digits-16px",
    "transfer/detection/retinanet_r18-w16_fpn_1xb8-16e_bccd-320x240",
    "transfer/segmentation/fpn_r18-w16_1xb8-800_camvid-240x180",
    "transfer/segmentation/fpn_r18-w16_1xb8-400_digit-scenes-128x128",
)


@pytest.mark.parametrize("name", STOCK)
def test_stock_configs_pass_in_silence(name, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    config = Config.fromfile(f"configs/{name}.py")
    root = config.get("data_root")
    if root is not None and not Path(root).is_dir():
        pytest.skip(f"{root} is not here")
    settings = config.model.to_dict()
    settings["backbone"].pop("init_cfg", None)
    settings.setdefault("data_preprocessor", config.get("data_preprocessor"))
    with DefaultScope.overwrite_default_scope(config.default_scope):
        model = MODELS.build(settings)
        loaders = [config.train_dataloader, config.get("val_dataloader"), config.get("test_dataloader")]
        train, val, test = (None if loader is None else loader.dataset for loader in loaders)
        runner = runner_for(model, DATASETS.build(train), None if val is None else DATASETS.build(val), test)
        runner._val_dataloader = {"dataset": val}
        CheckClassesHook().before_train(runner)
    assert runner.logger.warnings == []


def test_voc_files_without_a_wanted_class(tmp_path):
    with pytest.raises(ClassMismatchError, match=r"no box .* class 'be', and its XML files have 'bee'"):
        checked("coco", voc_set(tmp_path, classes=("ant", "be", "cat")))
    assert checked("coco", voc_set(tmp_path, classes=("ant", "cat")), number=2) == []
    assert checked("coco", voc_set(tmp_path)) == []


def test_a_set_that_is_empty_after_filtering(tmp_path):
    for settings in (
        coco_set(tmp_path, classes=("dog", "eel"), serialize_data=True),
        voc_set(tmp_path, classes=("dog", "eel"), filter_cfg={"filter_empty_gt": True}, serialize_data=True),
    ):
        with pytest.raises(EmptyDatasetError, match=r"Wanted: 2 classes, dog, eel; found .*: 3 classes, ant, bee, cat"):
            build(settings)
    with pytest.raises(EmptyDatasetError, match=r"the string 'dog', whose letters are not class names"):
        build(coco_set(tmp_path, classes="dog", serialize_data=True))
    with pytest.raises(EmptyDatasetError, match=r"CustomDataset has no image left \(ann_file='.*list.txt'"):
        build(listed_set(tmp_path, [], serialize_data=True))
    with pytest.raises(ClassMismatchError, match=r"train_dataloader.dataset: CocoDataset has no image left.*Wanted: 2"):
        checked("coco", coco_set(tmp_path, classes=("dog", "eel")))


def checkpoint_of(model, classes):
    return {"meta": {"dataset_meta": {"classes": classes}}, "state_dict": model.state_dict()}


def warnings_of_test(kind, settings, checkpoint, **options):
    runner = runner_for_test(model_with(**{HEADS[kind]: 3}), settings)
    hook = CheckClassesHook(**options)
    hook.after_load_checkpoint(runner, checkpoint)
    hook.before_test(runner)
    runner.val_loop = runner.test_loop
    hook.before_val(runner)
    return runner.logger.warnings


def test_a_test_needs_the_classes_of_the_checkpoint(kind, roots):
    model = model_with(**{HEADS[kind]: 3})
    settings = settings_of(kind, roots[0])
    assert warnings_of_test(kind, settings, checkpoint_of(model, NAMES)) == []
    assert warnings_of_test(kind, settings, {"state_dict": model.state_dict()}) == []
    with pytest.raises(ClassMismatchError, match="training of the checkpoint and of the test set differ: the order"):
        warnings_of_test(kind, settings, checkpoint_of(model, OTHER_ORDER))
    assert len(warnings_of_test(kind, settings, checkpoint_of(model, OTHER_ORDER), allow_other_classes=True)) == 2
    old = {"meta": {"CLASSES": OTHER_ORDER}, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}
    with pytest.raises(ClassMismatchError, match="the order differs"):
        warnings_of_test(kind, settings, old)
    renamed = warnings_of_test(kind, settings, checkpoint_of(model, ("Ant", "bee", "cat")))
    assert "some classes have other names" in renamed[0]


def test_a_test_set_of_other_labels_than_the_head(roots):
    checkpoint = {"state_dict": {}}
    with pytest.raises(LabelRangeError, match=r"test set .* label 5"):
        warnings_of_test("folders", listed_set(roots[0], [0, 5]), checkpoint)
    with pytest.raises(ClassMismatchError, match="the test set CustomDataset has 4 classes"):
        warnings_of_test("folders", folder_set(roots[1], (*NAMES, "dog")), checkpoint)


@pytest.mark.parametrize("iteration", [0, 4])
def test_a_run_that_starts_from_a_checkpoint_of_other_classes(kind, roots, iteration):
    model = model_with(**{HEADS[kind]: 3})

    def start(classes, state=None, **options):
        runner = runner_for(model, settings_of(kind, roots[0]), iteration=iteration)
        hook = CheckClassesHook(**options)
        content = checkpoint_of(model, classes)
        hook.after_load_checkpoint(runner, content if state is None else {**content, "state_dict": state})
        hook.before_train(runner)
        return runner.logger.warnings

    assert start(NAMES) == []
    if iteration:
        with pytest.raises(ClassMismatchError, match="the run that is resumed had other classes: the order differs"):
            start(OTHER_ORDER)
        assert "accepted" in start(OTHER_ORDER, allow_other_classes=True)[0]
    else:
        (warning,) = start(OTHER_ORDER)
        assert f"load_from filled model.{HEADS[kind]} with weights for other classes: the order differs" in warning
        assert start(("dog", "eel"), state={}) == []  # a new head on a pretrained network
