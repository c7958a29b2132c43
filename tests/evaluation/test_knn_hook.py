import re

import pytest
import torch
from ddp_knn import loader
from testing_helpers import build_model, network, run_two_processes
from training_helpers import assert_same, load, log, run

from mmkdprune.evaluation import KNNEvaluationHook, extract_features, knn_scores, make_preprocessor, topk_accuracy

CONFIG = "mcl/mcl-x2_resnet8_1xb64-12e-pairs_digits-16px"
KNN = {"train_dataloader": loader("train", 200), "val_dataloader": loader("test", 60)}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same run with the hook and without."""
    folder = tmp_path_factory.mktemp("runs")
    options = {"train_dataloader.batch_sampler": None, "train_dataloader.dataset.indices": 64}
    hook = {"type": "mmkdprune.KNNEvaluationHook", "interval": 2, "at_start": True, "topk": [1, 5], **KNN}
    runners = {}
    for name, hooks in (("with", [hook]), ("without", [])):
        runners[name] = run(folder / name, CONFIG, epochs=3, custom_hooks=hooks, **options)
    return folder, runners


def test_training_is_bit_for_bit_the_one_without(runs):
    folder, _ = runs
    one, other = (load(folder / name, 3) for name in ("with", "without"))
    for part in ("state_dict", "optimizer", "mmkdprune"):
        assert_same(one[part], other[part], part)


def test_is_logged_at_its_interval_and_at_the_end(runs):
    folder, runners = runs
    rows = [row for row in log(folder / "with") if "accuracy/knn_top1" in row]
    assert [row["step"] for row in rows] == [0, 2, 3]
    assert all(0 < row["accuracy/knn_top1"] <= row["accuracy/knn_top5"] <= 100 for row in rows)
    assert (
        runners["with"].message_hub.get_scalar("evaluation/accuracy/knn_top1").current()
        == rows[-1]["accuracy/knn_top1"]
    )
    (text,) = (path.read_text() for path in (folder / "with").glob("*/*.log"))
    assert len(re.findall(r"k-NN \(k = 20\) after epoch \d: accuracy/knn_top1: \d", text)) == 3
    assert not any("knn" in key and "loss" in key for row in rows for key in row)


def test_value_is_that_of_the_features(runs):
    runner = runs[1]["with"]
    (hook,) = (hook for hook in runner.hooks if isinstance(hook, KNNEvaluationHook))
    backbone, preprocessor = runner.model.backbone, make_preprocessor(runner.model.data_preprocessor)
    bank, queries = (extract_features(backbone, part, preprocessor) for part in hook.loaders.values())
    scores = knn_scores(bank.features, bank.labels, queries.features, 10)
    expected = topk_accuracy(scores, queries.labels)
    assert hook.evaluate(runner)["accuracy/knn_top1"] == pytest.approx(expected)


def test_two_processes_agree_with_one(tmp_path):
    run_two_processes("ddp_knn.py", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_neighbours": 0}, "num_neighbours must be a positive integer, got 0"),
        ({"interval": 1.5}, "interval must be a whole number, got 1.5"),
        ({"topk": [0]}, "topk 0 must be a positive integer, got 0"),
        ({"temperature": 0}, "temperature must be positive or None, got 0"),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(ValueError, match=message):
        KNNEvaluationHook(**{**KNN, **options})


def test_bad_models_and_data(tmp_path):
    class Runner:
        model = torch.nn.Linear(1, 1)
        iter = 1

        @staticmethod
        def build_dataloader(settings):
            from mmengine.runner import Runner

            return Runner.build_dataloader(settings)

    with pytest.raises(ValueError, match=r"evaluates model\.backbone, but Linear has none"):
        KNNEvaluationHook(**KNN).before_train(Runner)
    Runner.model = build_model("ImageClassifier", **network(8))
    (tmp_path / "0.png").touch()
    unlabelled = {"dataset": {"type": "mmpretrain.CustomDataset", "with_label": False, "data_prefix": str(tmp_path)}}
    with pytest.raises(ValueError, match="KNNEvaluationHook: the training set CustomDataset does not tell the class"):
        KNNEvaluationHook(unlabelled, KNN["val_dataloader"]).before_train(Runner)
