import pytest
import torch
from mmengine.config import Config
from testing_helpers import build_model, network

from mmkdprune.commands.evaluation.data import read_data_config
from mmkdprune.commands.evaluation.probe import complete_probe_config
from mmkdprune.deploy.backbone import build_backbone, list_peers, load_trained_backbone, with_random_weights
from mmkdprune.deploy.export import export_checkpoint
from mmkdprune.deploy.network import build_network
from mmkdprune.errors import ExportError
from mmkdprune.pruning import compact

PREPROCESSOR = {"mean": [1.0] * 3, "std": [2.0] * 3}


def save(path, model, state):
    config = {"default_scope": "mmpretrain", "model": model, "data_preprocessor": PREPROCESSOR}
    meta = {"cfg": Config(config).pretty_text, "epoch": 3, "seed": 5}
    torch.save({"meta": meta, "state_dict": state}, path)
    return path


@pytest.fixture(scope="module")
def cohort():
    settings = {"type": "mmkdprune.MCL", "num_peers": 2, **network(8)}
    torch.manual_seed(0)
    model = build_model(settings["type"], **{key: value for key, value in settings.items() if key != "type"})
    model.init_weights()
    return settings, model


@pytest.fixture
def checkpoint(cohort, tmp_path):
    settings, model = cohort
    return save(tmp_path / "epoch_3.pth", settings, model.state_dict())


def assert_same(backbone, expected):
    assert list(backbone.state_dict()) == list(expected.state_dict())
    assert all(torch.equal(value, expected.state_dict()[key]) for key, value in backbone.state_dict().items())


def test_of_a_run_of_an_export_and_of_a_peer(cohort, checkpoint):
    model = cohort[1]
    assert list_peers(checkpoint) == [0, 1]
    loaded = load_trained_backbone(checkpoint)
    assert_same(loaded.backbone, model.backbone)
    assert loaded.preprocessor == PREPROCESSOR
    description = loaded.describe()
    assert description["backbone"] == "CifarResNet-8"
    assert (description["algorithm"], description["epoch"], description["seed"]) == ("mmkdprune.MCL", 3, 5)
    assert_same(load_trained_backbone(checkpoint, peer=1).backbone, model.peers["1"].backbone)
    assert_same(load_trained_backbone(export_checkpoint(checkpoint).path).backbone, model.backbone)


def test_of_a_self_supervised_run(cohort, tmp_path):
    """Its normalisation is for several views, and it has key encoders and queues."""
    model = {"type": "mmpretrain.MoCo", "backbone": cohort[0]["backbone"], "neck": {}, "head": {}}
    state = {f"backbone.{key}": value for key, value in cohort[1].backbone.state_dict().items()}
    extra = {"queue": torch.ones(2, 3), "encoder_k.module.0.conv1.weight": torch.ones(1)}
    settings = {**model, "data_preprocessor": {"type": "SelfSupDataPreprocessor", **PREPROCESSOR}}
    loaded = load_trained_backbone(save(tmp_path / "a.pth", settings, {**state, **extra}))
    assert_same(loaded.backbone, cohort[1].backbone)


def test_of_a_compact_network(cohort, tmp_path):
    dense = cohort[1].backbone
    dense.eval()
    masks = {"layer1.0.conv1": torch.arange(16) < 6}
    small, plan = compact(dense, torch.randn(1, 3, 16, 16), masks)
    settings = {"type": "mmkdprune.CompactBackbone", "backbone": cohort[0]["backbone"], "plan": plan.to_dict()}
    state = {f"backbone.{key}": value for key, value in small.state_dict().items()}
    path = tmp_path / "compact.pth"  # as tools/compact.py writes it: a plan is no text for a config
    meta = {"model": {"type": "mmpretrain.ImageClassifier", "backbone": settings}}
    torch.save({"meta": meta, "state_dict": state}, path)
    images = torch.randn(2, 3, 16, 16)
    loaded = load_trained_backbone(path).backbone
    loaded.eval()
    small.eval()
    assert loaded.state_dict().keys() == small.state_dict().keys()
    torch.testing.assert_close(loaded(images)[-1], small(images)[-1])
    data = read_data_config("digits-16px", "linear")
    probe = complete_probe_config(data, load_trained_backbone(path), {}, tmp_path / "probe")
    model = build_network(Config.fromstring(probe.pretty_text, ".py").model, "mmpretrain")
    model.init_weights()
    assert_same(model.backbone, small)


def test_config_for_a_checkpoint_that_has_none(cohort, tmp_path):
    path, config = tmp_path / "zoo.pth", tmp_path / "config.py"
    state = {f"backbone.{key}": value for key, value in cohort[1].backbone.state_dict().items()}
    torch.save({"state_dict": state}, path)
    with pytest.raises(ExportError, match=r"does not say the config of its network: .* give the config \(--config\)"):
        load_trained_backbone(path)
    config.write_text(f"model = dict(type='ImageClassifier', backbone={cohort[0]['backbone']!r})")
    assert_same(load_trained_backbone(path, config=str(config)).backbone, cohort[1].backbone)
    config.write_text("model = dict(type='ImageClassifier', backbone=dict(type='mmkdprune.CifarResNet', depth=20))")
    with pytest.raises(ExportError, match=r"are not those of .*config\.py: .* missing"):
        load_trained_backbone(path, config=str(config))
    config.write_text("a = 1")
    with pytest.raises(ExportError, match=r"has no model\.backbone"):
        load_trained_backbone(path, config=str(config))


def test_no_backbone(cohort, tmp_path):
    path = save(tmp_path / "a.pth", cohort[0], {"head.fc.weight": torch.ones(2)})
    with pytest.raises(ExportError, match=r"no backbone\.\* key, so there is no backbone to evaluate; it holds head"):
        load_trained_backbone(path)


def test_random_weights_depend_on_the_seed_only(checkpoint):
    trained = load_trained_backbone(checkpoint)
    state = torch.get_rng_state()
    first, again, other = (with_random_weights(trained, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first.backbone, again.backbone)
    assert not torch.equal(first.backbone.conv1.weight, other.backbone.conv1.weight)
    assert (first.weights, first.describe()["seed"]) == ("random", 0)
    assert build_backbone(trained.settings) is not trained.backbone
