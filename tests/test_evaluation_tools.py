"""The evaluation tools on a short run of two networks, by their real commands."""

import json
import re

import pytest
import torch
from PIL import Image
from testing_helpers import REPOSITORY
from training_helpers import run

OMNIGLOT = REPOSITORY / "data" / "omniglot" / "omniglot_packed.npz"
FEW = ["--cfg-options", "train_dataloader.dataset.indices=200", "val_dataloader.dataset.indices=100"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Last checkpoint of two networks that trained together for an epoch."""
    folder = tmp_path_factory.mktemp("runs") / "two-networks" / "seed0"
    run(folder, "mcl/mcl-x2_resnet8_1xb64-12e-pairs_digits-16px", epochs=1, custom_hooks=[])
    return folder / "epoch_1.pth"


def figures(printed: str, network: str) -> list[float]:
    """Numbers in the row of a network."""
    (row,) = re.findall(rf"^\| \S+ \| {network} \| (.*) \|$", printed, flags=re.M)
    return [float(cell.split(" ± ")[0]) for cell in row.split(" | ")]


def test_few_shot(checkpoint, call, tmp_path):
    out, cache = tmp_path / "few_shot.json", tmp_path / "cache"
    command = ["few_shot.py", checkpoint, "--data", "digits", "--ways", 3, 5, "--shots", 1, "--episodes", 50]
    command += ["--cache", cache]
    code, printed = call(*command, "--random-init", "--out", out)
    assert code == 0, printed
    assert "accuracy on 50 episodes, 15 queries a class" in printed
    trained, initial = figures(printed, "two-networks"), figures(printed, "CifarResNet-8, random initialisation")
    assert len(trained) == len(initial) == 4  # two numbers of ways, two classifiers
    report = json.loads(out.read_text())
    assert [entry["network"]["weights"] for entry in report["evaluations"]] == ["saved", "random"]
    metric = report["evaluations"][0]["metrics"]["5-way 1-shot, nearest mean"]
    assert metric[0] == pytest.approx(trained[2], abs=0.01)
    assert 0 < metric[1] < 10
    assert report["command"].startswith("mmkdprune few-shot epoch_1.pth --data digits --ways 3 5")
    assert report["evaluations"][0]["settings"]["classes"] == 10
    assert str(tmp_path) not in out.read_text()

    # A second run takes the features from the cache, and finds the same.
    assert len(list(cache.iterdir())) == 2
    code, again = call(*command)
    assert code == 0, again
    assert figures(again, "two-networks") == trained
    assert len(list(cache.iterdir())) == 2
    code, printed = call(*command, "--out", out)
    assert (code, "exists already: give another name, or --overwrite" in printed) == (1, True)


def test_few_shot_needs_enough_classes_and_images(checkpoint, call):
    code, printed = call("few_shot.py", checkpoint, "--data", "digits", "--ways", 11)
    assert code == 1
    assert "num_ways=11 need as many classes, but the data set has 10: lower num_ways to 10" in printed
    code, printed = call("few_shot.py", checkpoint, "--data", "digits", "--shots", 30)
    assert code == 1
    assert "30 + 15 = 45 images of every class" in printed
    code, printed = call("few_shot.py", checkpoint, "--data", "digits", "--transform", "centred_l2", "--episodes", 20)
    assert code == 0, printed


@pytest.mark.skipif(not OMNIGLOT.is_file(), reason="real Omniglot is not in data/")
def test_few_shot_on_real_characters(checkpoint, call, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    code, printed = call(
        "few_shot.py", checkpoint, "--data", "omniglot", "--ways", 20, "--shots", 1, "--classifiers", "nearest_mean"
    )
    assert code == 0, printed
    (accuracy,) = figures(printed, "two-networks")
    assert 8 < accuracy < 60  # chance is 5


def test_knn(checkpoint, call):
    code, printed = call("knn.py", checkpoint, "--data", "digits-16px", "--k", 1, 20, "--peer", 1, *FEW)
    assert code == 0, printed
    assert all(20 < value <= 100 for value in figures(printed, "two-networks, peer 1"))
    code, printed = call("knn.py", checkpoint, "--data", "digits-16px", "--k", 0)
    assert (code, "--k must be positive" in printed) == (1, True)


def test_fast_linear_probe(checkpoint, call, tmp_path):
    for solver in ("sgd", "logistic_regression"):
        out = tmp_path / f"{solver}.json"
        command = ["linear_probe.py", checkpoint, "--data", "digits-16px", "--fast", "--solver", solver]
        code, printed = call(*command, "--out", out, *FEW)
        assert code == 0, printed
        (entry,) = json.loads(out.read_text())["evaluations"]
        name = f"linear probe, fitted to features extracted once ({solver.replace('_', ' ')})"
        assert entry["evaluation"] == name
        assert name in printed
        assert entry["settings"]["train_images"] == 200
        assert 40 < entry["metrics"]["top-1"] <= 100
    code, printed = call("analyze/evaluation_table.py", *tmp_path.glob("*.json"))
    assert code == 0, printed
    assert len(figures(printed, "two-networks")) == 2


def test_linear_probe_as_the_papers_do_it(checkpoint, call, tmp_path):
    before = torch.load(checkpoint, weights_only=True)["state_dict"]
    work_dir, out = tmp_path / "probe", tmp_path / "probe.json"
    command = ["linear_probe.py", checkpoint, "--data", "digits-16px", "--work-dir", work_dir, *FEW]
    code, printed = call(*command, "train_cfg.max_epochs=2", "--out", out)
    assert code == 0, printed
    assert "54 keys matched, 0 missing, 0 unexpected" in printed
    (entry,) = json.loads(out.read_text())["evaluations"]
    assert entry["evaluation"] == "linear probe, trained on augmented images"
    assert entry["settings"]["optimizer"] == {
        "type": "SGD", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0
    }  # fmt: skip
    assert entry["metrics"]["best epoch, top-1"] >= entry["metrics"]["last epoch, top-1"] > 10
    after = torch.load(work_dir / "epoch_2.pth", weights_only=True)["state_dict"]
    backbone = [key for key in before if key.startswith("backbone.")]
    assert all(torch.equal(before[key], after[key]) for key in backbone)
    code, printed = call(*command, "train_cfg.max_epochs=2")
    assert (code, "already holds checkpoints" in printed) == (1, True)
    code, printed = call(*command, "train_cfg.max_epochs=3", "--resume")
    assert code == 0, printed
    assert "resumed epoch: 2" in printed


def test_data_and_checkpoints_that_do_not_work(checkpoint, call, tmp_path):
    code, printed = call("linear_probe.py", checkpoint, "--data", "stl11", "--fast")
    assert code == 1
    assert "neither a config nor one of the known data sets: stl10-32px" in printed
    headless = tmp_path / "headless.pth"
    torch.save({"state_dict": {"head.fc.weight": torch.ones(1)}}, headless)
    code, printed = call("knn.py", headless, "--data", "digits-16px")
    assert (code, "has no backbone.* key, so there is no backbone to evaluate" in printed) == (1, True)
    data = tmp_path / "unlabelled.py"
    for name in ("a", "b"):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{name}.png")
    data.write_text(
        "loader = dict(batch_size=2, num_workers=0, dataset=dict(type='CustomDataset', with_label=False, "
        f"data_prefix={str(tmp_path)!r}, pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')]), "
        "sampler=dict(type='DefaultSampler', shuffle=False))\n"
        "train_dataloader, val_dataloader = loader, loader\n"
    )
    for command in (["knn.py"], ["linear_probe.py", "--fast"], ["few_shot.py"]):
        code, printed = call(command[0], checkpoint, "--data", data, *command[1:])
        assert code == 1
        assert "CustomDataset has images without exactly one label: use the labelled part" in printed


def test_pictures(checkpoint, call, tmp_path):
    embeddings, similarity = tmp_path / "embeddings.png", tmp_path / "similarity.png"
    command = ["analyze/embeddings.py", checkpoint, "--data", "digits-16px", "--out", embeddings, "--images", 60]
    code, printed = call(*command, "--classes", 4, "--perplexity", 5)
    assert code == 0, printed
    content = json.loads(embeddings.with_suffix(".json").read_text())
    assert len(set(content["panels"][0]["labels"])) == 4
    assert len(content["panels"][0]["points"]) == 60
    code, printed = call("analyze/cohort_similarity.py", checkpoint, "--data", "digits-16px", "--out", similarity)
    assert code == 0, printed
    content = json.loads(similarity.with_suffix(".json").read_text())
    assert content["names"] == [f"network {peer}, stage {stage}" for peer in (0, 1) for stage in (1, 2, 3)]
    assert all(content["matrix"][index][index] == 1 for index in range(6))
    for picture in (embeddings, similarity):
        with Image.open(picture) as image:
            assert min(image.size) > 400
            assert len(image.convert("RGB").resize((100, 100)).getcolors(10_000)) > 10
    code, printed = call(*command)
    assert (code, "exists already" in printed) == (1, True)
    code, printed = call(*command, "--overwrite", "--perplexity", 90)
    assert (code, "must lie between 1 and the number of images, 60" in printed) == (1, True)
    command[-1] = 5
    code, printed = call(*command, "--overwrite", "--classes", 11)
    assert (code, "--classes 11: choose 2 to 10" in printed) == (1, True)
