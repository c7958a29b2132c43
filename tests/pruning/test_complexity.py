import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn
from toy_nets import make_classifier

from mmkdprune.models.backbones import CifarResNet
from mmkdprune.pruning import complexity, make_pruner, paper_flops


# Published reductions in percent at rates 0.1 to 0.4, and the dense network's multiply-accumulate operations.
@pytest.mark.parametrize(
    ("depth", "dense", "reductions"),
    [
        (20, 40.55e6, (15.2, 29.3, 42.2, 54.0)),
        (32, 68.86e6, (14.9, 28.8, 41.5, 53.2)),
        (56, 125.49e6, (14.7, 28.4, 41.1, 52.6)),
        (110, 252.89e6, (14.6, 28.2, 40.8, 52.3)),
    ],
)
def test_formula_of_the_papers(depth, dense, reductions):
    network = CifarResNet(depth=depth, block="basic", shortcut="pad")
    for rate, reduction in zip((0.1, 0.2, 0.3, 0.4), reductions, strict=True):
        counted = paper_flops(network, rate, (3, 32, 32))
        assert counted["dense"] == pytest.approx(dense, rel=1e-3)
        assert 100 * counted["reduction"] == pytest.approx(reduction, abs=0.1)
        assert counted["pruned"] == pytest.approx(counted["dense"] * (1 - counted["reduction"]))


def test_projection_shortcuts_do_not_count():
    with_convolutions = paper_flops(CifarResNet(depth=20), 0.3, (3, 32, 32))
    assert with_convolutions == paper_flops(CifarResNet(depth=20, shortcut="pad"), 0.3, (3, 32, 32))


def test_rate_zero_and_excluded_layers():
    model = make_classifier()
    assert paper_flops(model, 0.0, (3, 8, 8))["reduction"] == 0
    only_first = paper_flops(model, 0.5, (3, 8, 8), include=r"^conv1$")
    stem, follower = 64 * 27 * 10, 64 * 90 * 10
    assert only_first["dense"] - only_first["pruned"] == pytest.approx(0.5 * (stem + follower))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("ResNet", {"depth": 50}), ("MobileNetV2", {}), ("ResNeXt", {"depth": 50, "groups": 32, "width_per_group": 4})],
)
def test_counts_agree_with_mmengine(name, arguments):
    init_default_scope("mmpretrain")
    network = MODELS.build({"type": name, **arguments})
    counted = complexity(network, (3, 64, 64), rounds=0)
    network.eval()
    other = get_model_complexity_info(network, (3, 64, 64), show_table=False, show_arch=False)
    assert counted["params"] == other["params"]
    # MMEngine counts normalisation and pooling, too
    assert counted["macs"] == pytest.approx(other["flops"], rel=0.08)
    assert counted["macs"] < other["flops"]


def test_masks_change_no_number_and_the_model_is_left_as_it_was():
    model = make_classifier().train()
    model.backbone.bn1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    dense = complexity(model, (3, 8, 8), rounds=2)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert not model.backbone.bn1.training
    make_pruner(model, "hfp", 0.5).finalize()
    pruned = complexity(model, (3, 8, 8), rounds=2)
    assert (pruned["macs"], pruned["params"]) == (dense["macs"], dense["params"])
    assert dense["latency_ms"] > 0
    assert complexity(model, (5, 3, 8, 8), rounds=0) == {"macs": dense["macs"], "params": dense["params"]}


def test_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten())
    network.append(nn.Linear(8 * 2 * 2, 5))
    assert complexity(network, (3, 8, 8), rounds=0)["macs"] == 16 * 27 * 8 + 4 * 9 * 8 + 32 * 5


@pytest.mark.parametrize("shape", [(3, 32), (3, 32, 32, 1, 1), (3, 0, 32), (3, 32.0, 32)])
def test_wrong_shapes(shape):
    with pytest.raises(ValueError, match=r"input_shape must be .* whole number.*, got "):
        complexity(make_classifier(), shape)
