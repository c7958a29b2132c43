"""tools/dataset_converters on tiny copies of the official folders, and the configs' data sets on what they write."""

import itertools
import re
import runpy
import sys
from pathlib import Path

import fake_datasets
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.datasets import CustomDataset
from testing_helpers import REPOSITORY

from mmkdprune.commands.dataset_conversion import ImageLists, convert_to_lists, write_lists
from mmkdprune.config.data_sources import SOURCES
from mmkdprune.datasets import MiniImageNet, TinyImageNet
from mmkdprune.datasets import stl10 as stl10_module
from mmkdprune.errors import UsageError

FAKES = {
    "mini_imagenet": fake_datasets.mini_imagenet,
    "mit67": fake_datasets.mit67,
    "stanford_cars": fake_datasets.cars,
    "stanford_dogs": fake_datasets.dogs,
    "tiny_imagenet": fake_datasets.tiny_imagenet,
}


@pytest.fixture
def convert(call, tmp_path):
    """Run a converter on ``tmp_path``."""

    def run(name: str, *options: str) -> tuple[int, str]:
        return call(f"dataset_converters/{name}.py", tmp_path, *options)

    return run


def dataset_of(config: str, part: str, root: Path):
    """Build a data set of a config with its own pipeline."""
    settings = Config.fromfile(REPOSITORY / "configs" / f"{config}.py")[f"{part}_dataloader"].dataset
    settings.data_root = str(root)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        return DATASETS.build(settings)


def assert_sample(dataset, label: int, size: int) -> None:
    sample = dataset[0]
    assert sample["inputs"].shape == (3, size, size)
    assert sample["data_samples"].gt_label.item() == label


@pytest.mark.parametrize(
    ("name", "config", "size", "train", "test", "classes"),
    [
        ("stanford_dogs", "stanford-dogs", 224, [0, 0, 1, 1], [0, 1], ["Chihuahua", "Japanese_spaniel"]),
        ("mit67", "mit67", 224, [1, 0], [0], ["airport_inside", "bar"]),
        ("stanford_cars", "stanford-cars", 224, [1, 0], [0], ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]),
    ],
)
def test_fine_grained_sets(name, config, size, train, test, classes, convert, tmp_path):
    FAKES[name](tmp_path)
    code, output = convert(name, "--partial")
    assert code == 0, output
    assert f"{tmp_path}/meta/train.txt: {len(train)} images" in output
    assert f"classes.txt: {len(classes)} classes ({classes[0]}" in output
    for part, labels in (("train", train), ("val", test)):
        dataset = dataset_of(f"mixskd/mixskd_resnet18_1xb32-200e_{config}", part, tmp_path)
        assert dataset.get_gt_labels().tolist() == labels
        assert list(dataset.metainfo["classes"]) == classes
        assert_sample(dataset, labels[0], size)
        assert all(Path(dataset.get_data_info(index)["img_path"]).is_file() for index in range(len(dataset)))


@pytest.mark.parametrize(
    ("config", "fake", "train", "test"),
    [
        ("cub200", fake_datasets.cub, [0, 1, 199], [0, 1, 199]),
        ("fgvc-aircraft", fake_datasets.aircraft, [0, 51], [0]),
    ],
)
def test_sets_that_mmpretrain_reads_as_they_are(config, fake, train, test, tmp_path):
    fake(tmp_path)
    for part, labels in (("train", train), ("val", test)):
        dataset = dataset_of(f"mixskd/mixskd_resnet18_1xb32-200e_{config}", part, tmp_path)
        if config == "fgvc-aircraft":
            labels = [dataset.metainfo["classes"].index(name) for name in ("707-320", "F-16A/B")[: len(labels)]]
        assert dataset.get_gt_labels().tolist() == labels
        assert_sample(dataset, labels[0], 224)


@pytest.mark.parametrize(
    ("layout", "train", "first"),
    [("one folder", [1, 0], "car_ims/000002.jpg"), ("nested", [1, 0], "cars_train/cars_train/00001.jpg")],
)
def test_other_layouts_of_the_cars(layout, train, first, convert, tmp_path):
    fake_datasets.cars(tmp_path, layout)
    code, output = convert("stanford_cars", "--partial")
    assert code == 0, output
    assert (tmp_path / "meta" / "train.txt").read_text().splitlines()[0] == f"{first} 1"
    dataset = dataset_of("mixskd/plain_resnet18_1xb32-200e_stanford-cars", "train", tmp_path)
    assert dataset.get_gt_labels().tolist() == train
    assert len(dataset_of("mixskd/plain_resnet18_1xb32-200e_stanford-cars", "test", tmp_path)) == 1


@pytest.mark.parametrize("in_class_folders", [False, True])
def test_mini_imagenet(in_class_folders, convert, tmp_path):
    fake_datasets.mini_imagenet(tmp_path, in_class_folders)
    code, output = convert("mini_imagenet", "--partial")
    assert code == 0, output
    train, test = (
        dataset_of("mixskd/mixskd_resnet18_1xb64-200e_mini-imagenet", part, tmp_path) for part in ("train", "val")
    )
    assert train.metainfo["classes"] == ("n02000000", "n01000000", "n03000000")  # in the order of the lists
    assert train.get_gt_labels().tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert test.get_gt_labels().tolist() == [0, 1, 2]
    assert test.get_data_info(0)["img_path"].endswith("n0200000000000005.jpg")
    assert_sample(train, 0, 84)
    assert_sample(test, 0, 84)
    few_shot = [MiniImageNet(data_root=str(tmp_path), split=f"fewshot_{part}") for part in ("train", "val", "test")]
    assert [set(part.get_gt_labels()) for part in few_shot] == [{0}, {1}, {2}]
    assert [len(part) for part in few_shot] == [6, 6, 6]


def test_tiny_imagenet_lists_are_what_the_data_set_reads(convert, tmp_path):
    fake_datasets.tiny_imagenet(tmp_path)
    code, output = convert("tiny_imagenet", "--partial")
    assert code == 0, output
    for split in ("train", "val"):
        listed = CustomDataset(
            data_root=str(tmp_path), ann_file=f"meta/{split}.txt", classes=str(tmp_path / "meta" / "classes.txt")
        )
        read = TinyImageNet(data_root=str(tmp_path), split=split)
        assert list(map(listed.get_data_info, range(len(listed)))) == list(map(read.get_data_info, range(len(read))))
        assert listed.metainfo["classes"] == read.metainfo["classes"]


def test_stl10_as_folders(convert, tmp_path, monkeypatch):
    monkeypatch.setattr(stl10_module, "IMAGES", {"train": 4, "test": 2, "unlabeled": 3})
    fake_datasets.stl10(tmp_path, stl10_module.IMAGES)
    code, output = convert("stl10", "--splits", "train", "unlabeled")
    assert code == 0, output
    dataset = CustomDataset(
        data_root=str(tmp_path / "images"), data_prefix="train", pipeline=[{"type": "LoadImageFromFile"}]
    )
    assert dataset.metainfo["classes"] == ("airplane", "bird", "car", "cat")
    assert (dataset[1]["img"][..., ::-1] == stl10_module.STL10(str(tmp_path)).get_data_info(1)["img"]).all()
    assert len(list((tmp_path / "images" / "unlabeled").rglob("*.png"))) == 3
    code, output = convert("stl10")
    assert (code, "images/train exists already: add --overwrite" in output) == (1, True)
    (tmp_path / "images" / "train" / "car" / "other.png").touch()
    assert convert("stl10", "--overwrite")[0] == 0
    assert not (tmp_path / "images" / "train" / "car" / "other.png").exists()
    assert len(list((tmp_path / "images" / "test").rglob("*.png"))) == 2


@pytest.mark.parametrize("name", sorted(FAKES))
def test_refuses_other_numbers_of_images(name, convert, tmp_path):
    FAKES[name](tmp_path)
    code, output = convert(name)
    assert (code, "Traceback" in output) == (1, False)
    assert re.search(r"the official set has [\d,]+ images in split 'train', this one \d+: .*add --partial", output)
    assert not (tmp_path / "meta").exists()


def test_complete_sets_need_no_option(tmp_path, monkeypatch, capsys):
    fake_datasets.mit67(tmp_path)
    script = runpy.run_path(str(REPOSITORY / "tools" / "dataset_converters" / "mit67.py"))
    monkeypatch.setattr(sys, "argv", ["mit67.py", str(tmp_path)])
    convert_to_lists("MIT67", script["read"], {"train": 2, "test": 1})
    assert (tmp_path / "meta" / "train.txt").read_text() == "Images/bar/b 1.jpg 1\nImages/airport_inside/a1.jpg 0\n"
    assert "test.txt: 1 images" in capsys.readouterr().out


def test_nothing_is_overwritten_silently(convert, tmp_path):
    fake_datasets.dogs(tmp_path)
    assert convert("stanford_dogs", "--partial")[0] == 0
    (tmp_path / "meta" / "train.txt").write_text("mine\n")
    code, output = convert("stanford_dogs", "--partial")
    assert (code, f"{tmp_path}/meta/train.txt exists already: add --overwrite" in output) == (1, True)
    assert (tmp_path / "meta" / "train.txt").read_text() == "mine\n"
    assert convert("stanford_dogs", "--partial", "--overwrite")[0] == 0
    assert (tmp_path / "meta" / "train.txt").read_text().startswith("Images/n02085620-Chihuahua/n02085620_1.jpg 0\n")


def test_all_lists_are_written_or_none(tmp_path):
    def interrupted():
        yield "a.jpg", 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_lists(tmp_path / "meta", ImageLists({"train": [("b.jpg", 0)], "test": interrupted()}, ["a"]))
    assert list((tmp_path / "meta").iterdir()) == []


def test_absent_images(convert, tmp_path):
    fake_datasets.dogs(tmp_path)
    path = tmp_path / "Images" / "n02085620-Chihuahua" / "n02085620_2.jpg"
    path.unlink()
    code, output = convert("stanford_dogs")
    assert (code, f"1 of the 6 images that the lists name are not there, the first is {path}" in output) == (1, True)
    code, output = convert("stanford_dogs", "--partial")
    assert (code, "meta/train.txt: 3 images" in output) == (0, True)


@pytest.mark.parametrize(
    ("name", "removed", "message"),
    [
        (
            "stanford_dogs",
            "test_list.mat",
            "Stanford Dogs: there is no .*/test_list.mat or .*Download images.tar and lists",
        ),
        ("mit67", "TrainImages.txt", "there is no .*/TrainImages.txt. Download indoorCVPR_09.tar, TrainImages.txt"),
        ("stanford_cars", "devkit/cars_test_annos_withlabels.mat", "no .*cars_test_annos_withlabels.mat.*site is gone"),
        ("stanford_cars", "devkit/cars_meta.mat", "there is no .*devkit/cars_meta.mat"),
        (
            "mini_imagenet",
            "val.csv",
            "there is no .*/val.csv. Put the images into .*a pickle can run code; then repeat",
        ),
        ("tiny_imagenet", "wnids.txt", "Tiny-ImageNet: there is no .*/wnids.txt. Download tiny-imagenet-200.zip"),
        ("tiny_imagenet", "val/val_annotations.txt", "there is no .*/val_annotations.txt. Download tiny-imagenet-200"),
    ],
)
def test_absent_lists(name, removed, message, convert, tmp_path):
    FAKES[name](tmp_path)
    (tmp_path / removed).unlink()
    code, output = convert(name, "--partial")
    assert (code, "Traceback" in output) == (1, False)
    assert re.search(message, output), output


@pytest.mark.parametrize("name", [*sorted(FAKES), "stl10"])
def test_absent_folder(name, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output = call(f"dataset_converters/{name}.py")
    (source,) = (source for key, source in SOURCES.items() if key.lower() == name.replace("_", ""))
    assert (code, "Traceback" in output) == (1, False)
    assert f"error: {source.title}: there is no folder {source.root}. " in output


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("stanford_dogs", "train_list.mat", "<html>404</html>", "train_list.mat is damaged or not the official file"),
        (
            "stanford_cars",
            "devkit/cars_train_annos.mat",
            "",
            "cars_train_annos.mat is damaged or not the official file",
        ),
        ("mit67", "TestImages.txt", "<html>\n", "'<html>' is no scene/image.jpg"),
        ("mini_imagenet", "test.csv", "image,class\n", r"has the columns \['image', 'class'\], expected filename and"),
        ("mini_imagenet", "test.csv", "filename,label\nx.jpg,n02000000\n", "class n02000000 is in another list"),
    ],
)
def test_damaged_lists(name, file, content, message, convert, tmp_path):
    FAKES[name](tmp_path)
    (tmp_path / file).write_text(content)
    code, output = convert(name, "--partial")
    assert (code, "Traceback" in output) == (1, False)
    assert re.search(message, output), output


def test_lists_without_any_image(convert, tmp_path):
    fake_datasets.mit67(tmp_path)
    for path in (tmp_path / "Images").rglob("*.jpg"):
        path.unlink()
    code, output = convert("mit67", "--partial")
    assert (code, "there is no image of split 'train' at all" in output) == (1, True)


def test_write_lists_names_the_file(tmp_path):
    write_lists(tmp_path, ImageLists({"train": []}, ["a"]))
    with pytest.raises(UsageError, match=r"train\.txt exists already"):
        write_lists(tmp_path, ImageLists({"train": []}, ["a"]))


DOCS = (REPOSITORY / "docs" / "datasets.md").read_text()


def test_commands_of_the_docs(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stl10_module, "IMAGES", {"train": 4, "test": 2, "unlabeled": 3})
    blocks = re.findall(r"^```bash\n(.*?)^```", DOCS, flags=re.M | re.S)
    commands = [line.split() for block in blocks for line in block.splitlines()]
    assert {Path(command[1]).name for command in commands} == {
        path.name for path in (REPOSITORY / "tools" / "dataset_converters").glob("*.py")
    }
    for python, tool, folder in commands:
        name = Path(tool).stem
        if name == "stl10":
            fake_datasets.stl10(Path(folder), stl10_module.IMAGES)
        else:
            FAKES[name](Path(folder))
        code, output = call(tool.removeprefix("tools/"), folder, *([] if name == "stl10" else ["--partial"]))
        assert (python, code) == ("python", 0), output


def test_docs_know_every_set_and_its_configs():
    for name, source in SOURCES.items():
        (row,) = (re.split(r" *\| *", line) for line in DOCS.splitlines() if re.search(rf"[.`]{name}` \|", line))
        assert row[1].split(",")[0] == source.title
        assert f"`{source.root}" in row[4]
        assert row[5].strip("`") == (source.converter or "")
    rows = [line.split(" | ") for line in DOCS.splitlines() if re.match(r"\| [^|]+ \| `\S+_bs\d+\.py`", line)]
    listed = set()
    for _, bases, configs in rows:
        for base in re.findall(r"`(\S+)`", bases):
            assert (REPOSITORY / "configs" / "_base_" / "datasets" / base).is_file()
        for pattern in re.findall(r"`(\S+)`", configs):
            parts = [choices.split(",") for choices in re.split(r"[{}]", f"{pattern}.py")]
            found = [
                path for names in itertools.product(*parts) for path in (REPOSITORY / "configs").glob("".join(names))
            ]
            assert len(found) >= 2, pattern
            listed |= set(found)
    for folder, dataset in itertools.product(("mixskd", "hsakd", "mcl"), ("cub200", "mit67", "stl10", "tiny-imagenet")):
        assert set((REPOSITORY / "configs" / folder).glob(f"*_{dataset}.py")) <= listed
