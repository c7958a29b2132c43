import pytest
import torch
import torch.nn.functional as F
from testing_helpers import build_model, det, golden

from mmkdprune.models.heads import AggregationHead, LayerWeightNetwork, ProjectionHead


def golden_features():
    """Unit embeddings of the golden values, by network and layer."""
    return [
        [F.normalize(det((6, 4), 0.37 + 0.11 * i + 0.05 * k, 0.5 * i + 0.2 * k), dim=1) for k in range(2)]
        for i in range(2)
    ]


def set_weights(layer, weight, bias):
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def test_projection_is_two_layers_and_a_norm():
    head = ProjectionHead(6, out_channels=5, hidden_channels=7).double()
    rows = torch.randn(3, 6, dtype=torch.float64)
    hidden = (rows @ head.fc1.weight.T + head.fc1.bias).clamp(min=0)
    expected = hidden @ head.fc2.weight.T + head.fc2.bias
    torch.testing.assert_close(head(rows), expected / expected.norm(dim=1, keepdim=True))
    assert ProjectionHead(64)(torch.randn(2, 64)).shape == (2, 128)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_embeddings_of_half_precision_are_float32(dtype):
    rows = ProjectionHead(6).to(dtype)(torch.randn(3, 6, dtype=dtype))
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


def test_golden_of_the_aggregator():
    expected = golden("kd_losses")["lmcl"]["aggregator"]
    for i, (row, name) in enumerate(((0, "net0_row0"), (5, "net1_row5"))):
        head = AggregationHead(4, 2).double()
        set_weights(head.fc1, det((4, 8), 0.3 + 0.1 * i, 0.2), det((4,), 0.4, 0.1, 0.1))
        set_weights(head.fc2, det((2, 4), 0.6, 0.1 * i), det((2,), 0.3, 0.2, 0.1))
        logits = [det((6, 3), 0.5 + 0.1 * i + 0.05 * k, 0.1 * k, 2.0) for k in range(2)]
        assert head(golden_features()[i], logits)[row].tolist() == pytest.approx(expected[name], abs=1e-6)


def test_aggregated_logits_lie_between_those_of_the_stages():
    logits = [torch.randn(8, 5) for _ in range(3)]
    result = AggregationHead(4, 3)([10 * torch.randn(8, 4) for _ in range(3)], logits)
    stacked = torch.stack(logits)
    assert (result >= stacked.amin(0) - 1e-6).all()
    assert (result <= stacked.amax(0) + 1e-6).all()


def test_golden_of_the_weight_network():
    expected = golden("kd_losses")["lmcl"]["weight_net"]
    network = LayerWeightNetwork([4, 4], 2).double()
    for i, layers in enumerate(network.projections):
        for k, layer in enumerate(layers):
            set_weights(layer, det((128, 4), 0.1 + 0.02 * i + 0.01 * k, 0.3), det((128,), 0.2, 0.1 * k, 0.1))
    weights = network(golden_features())
    assert weights.shape == (2, 2, 2, 2, 6)
    # the pairs (0,0; 1,0) and (1,1; 0,1), the first and the last of eight
    assert weights[0, 0, 1, 0].tolist() == pytest.approx(expected["w0"], abs=1e-6)
    assert weights[1, 1, 0, 1].tolist() == pytest.approx(expected["w7"], abs=1e-6)
    torch.testing.assert_close(weights, weights.permute(2, 3, 0, 1, 4))


def test_weights_lie_in_their_range_and_their_network_stays_out_of_training():
    network = LayerWeightNetwork([4, 6], 3)
    weights = network([[torch.randn(9, size) for _ in range(3)] for size in (4, 6)])
    assert 0.2689 < weights.min() < weights.max() < 0.7311
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_built_by_name():
    assert build_model("mmkdprune.ProjectionHead", in_channels=8).out_channels == 128
    assert isinstance(build_model("mmkdprune.AggregationHead", in_channels=8, num_stages=3), AggregationHead)
    assert isinstance(build_model("mmkdprune.LayerWeightNetwork", in_channels=[8], num_stages=3), LayerWeightNetwork)
