import pytest
import torch
from testing_helpers import build_model, network, samples
from training_helpers import log, run

from mmkdprune.evaluation import EpisodeShape, FewShotAccuracy, evaluate_few_shot, extract_features, make_preprocessor
from mmkdprune.evaluation.loops import feature_samples

METRIC = {"type": "mmkdprune.FewShotAccuracy", "num_ways": 3, "num_shots": [1, 2], "num_queries": 2, "num_episodes": 50}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A cohort that was validated and tested by few-shot episodes."""
    folder = tmp_path_factory.mktemp("run")
    runner = run(
        folder,
        "mcl/mcl-x2_resnet8_1xb64-12e-pairs_digits-16px",
        epochs=1,
        val_cfg={"type": "mmkdprune.FeatureValLoop", "_delete_": True},
        val_evaluator={**METRIC, "_delete_": True},
        test_cfg={"type": "mmkdprune.FeatureTestLoop", "_delete_": True},
        test_evaluator={**METRIC, "classifiers": ["nearest_mean"], "_delete_": True},
        custom_hooks=[],
    )
    return folder, runner, runner.test()


def test_validation_and_test_use_the_features(finished):
    folder, runner, tested = finished
    (row,) = (row for row in log(folder) if "few_shot/3way_1shot_nearest_mean" in row)
    names = [f"3way_{shots}shot_{name}" for shots in (1, 2) for name in ("nearest_mean", "logistic_regression")]
    assert {f"few_shot/{name}{ending}" for name in names for ending in ("", "_ci95")} <= row.keys()
    # The classes of the episodes are not the heads': their accuracy would say nothing.
    assert not any("peer1" in key for key in row)
    features = extract_features(
        runner.model.backbone, runner.val_dataloader, make_preprocessor(runner.model.data_preprocessor)
    )
    for shots in (1, 2):
        (expected,) = evaluate_few_shot(
            features.features, features.labels, EpisodeShape(3, shots, 2), ["nearest_mean"], 50
        )
        assert row[f"few_shot/3way_{shots}shot_nearest_mean"] == pytest.approx(expected.accuracy, abs=1e-3)
        assert row[f"few_shot/3way_{shots}shot_nearest_mean_ci95"] == pytest.approx(expected.interval, abs=1e-3)
    assert set(tested) == {f"few_shot/3way_{s}shot_nearest_mean{ending}" for s in (1, 2) for ending in ("", "_ci95")}


def test_metric_needs_features():
    metric = FewShotAccuracy()
    with pytest.raises(ValueError, match=r"needs features, not predictions: set val_cfg=dict\(type='mmkdprune\.Fea"):
        metric.process(None, [{"pred_score": 1}])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_shots": 0}, "num_shots must be an integer of at least 1, got 0"),
        ({"num_ways": [5, 1]}, "num_ways must be an integer of at least 2, got 1"),
        ({"classifiers": ["svm"]}, "classifiers must be some of"),
        ({"transform": "centred_l2"}, "transform must be one of"),
    ],
)
def test_bad_settings_show_when_the_metric_is_built(options, message):
    with pytest.raises(ValueError, match=message):
        FewShotAccuracy(**options)


def test_images_without_labels_and_models_without_a_backbone():
    model = build_model("ImageClassifier", **network(8))
    given = {"inputs": torch.zeros(1, 3, 16, 16), "data_samples": samples(1)}
    assert feature_samples(model, given, "x")[0].feature.shape == (64,)
    del given["data_samples"][0].gt_label
    with pytest.raises(ValueError, match="Unlabelled has images without exactly one label"):
        feature_samples(model, given, "Unlabelled")
    with pytest.raises(ValueError, match="LinearClsHead has none"):
        feature_samples(model.head, given, "x")
