import copy

import pytest
import torch
from testing_helpers import build_model
from torch import nn

from mmkdprune.models.utils import MomentumEncoder, QueryEncoder, unit_embeddings

BACKBONE = {"type": "mmkdprune.CifarResNet", "depth": 8}
NECK = {"type": "MoCoV2Neck", "in_channels": 64, "hid_channels": 8, "out_channels": 4}


@pytest.fixture
def network():
    torch.manual_seed(0)
    options = dict(NECK)
    return build_model(BACKBONE["type"], depth=8), build_model(options.pop("type"), **options)


def change(*modules):
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))


def test_first_update_copies_and_later_ones_average(network):
    encoder = MomentumEncoder(*network, momentum=0.25)
    change(*network)
    encoder.update(*network)
    first = [p.clone() for module in network for p in module.parameters()]
    assert all(torch.equal(p, value) for p, value in zip(encoder.parameters(), first, strict=True))
    change(*network)
    encoder.update(*network)
    second = [p for module in network for p in module.parameters()]
    for average, old, new in zip(encoder.parameters(), first, second, strict=True):
        assert torch.equal(average, torch.lerp(old, new, 0.25))


def test_loaded_averages_are_gone_on_from(network):
    encoder, loaded = (MomentumEncoder(*network, momentum=0.25) for _ in range(2))
    change(encoder)
    loaded.load_state_dict(copy.deepcopy(encoder.state_dict()))
    loaded.update(*network)
    old, new = encoder.backbone.conv1.weight, network[0].conv1.weight
    assert torch.equal(loaded.backbone.conv1.weight, torch.lerp(old, new, 0.25))


def test_statistics_are_its_own_and_no_gradient_reaches_it(network):
    encoder = MomentumEncoder(*network, momentum=0.1).train()
    rows = encoder(torch.randn(4, 3, 16, 16, requires_grad=True))
    assert not rows.requires_grad
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(p.requires_grad for module in network for p in module.parameters())
    before = encoder.backbone.bn1.running_mean.clone()
    encoder.update(*network)
    assert torch.equal(encoder.backbone.bn1.running_mean, before)
    assert not torch.equal(network[0].bn1.running_mean, before)


def test_embeddings_are_unit_rows_in_float32(network):
    images = torch.randn(4, 3, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = unit_embeddings(*network, images)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(4))
    query = QueryEncoder({**BACKBONE}, {**NECK, "type": "mmpretrain.MoCoV2Neck"})
    query.load_state_dict(
        {f"{n}.{k}": v for n, m in zip(("backbone", "neck"), network, strict=True) for k, v in m.state_dict().items()}
    )
    torch.testing.assert_close(query(images), rows, rtol=0.1, atol=0.1)  # half precision before


@pytest.mark.parametrize(("neck", "found"), [(nn.Identity(), r"shape \(2, 64, 4, 4\)"), (lambda maps: {}, "dict")])
def test_necks_that_make_no_embeddings(network, neck, found):
    with pytest.raises(ValueError, match=rf"must give one embedding an image, \(N, D\), got {found}: take MoCoV2Neck"):
        unit_embeddings(network[0], neck, torch.randn(2, 3, 16, 16))
