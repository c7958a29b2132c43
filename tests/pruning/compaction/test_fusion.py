"""Fusing for deployment: closed forms, families that re-parameterise themselves, and what must not be folded."""

import copy

import compactable_backbones as TABLE
import pytest
import torch
from compaction_nets import SIZE, build, prune, randomise
from torch import nn

from mmkdprune.pruning import CompactionError, compact, fuse
from mmkdprune.pruning.compaction.fusion_record import Fusion, FusionRecordError, apply_fusion

# of MMPretrain's smallest networks where the sizes are not free
_REPVGG = {"type": "RepVGG", "in_channels": 3, "base_channels": 8, "out_indices": (3,)}
_ARCH = {"num_blocks": [1, 1, 1, 1], "width_factor": [1, 1, 1, 1], "group_layer_map": None, "se_cfg": None}
_LARGE_KERNELS = {
    "large_kernel_sizes": [5, 5, 5, 5], "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8],
    "small_kernel": 3, "dw_ratio": 1,
}  # fmt: skip
_RIFORMER = {"layers": [1, 1, 1, 1], "embed_dims": [8, 12, 16, 20], "mlp_ratios": [2, 2, 2, 2],
             "layer_scale_init_value": 0.5}  # fmt: skip
# config, number of image pixels, whether zero filters are removed first
FAMILIES = {
    "repvgg": ({**_REPVGG, "arch": _ARCH}, 32, True),
    "mobileone": ({"type": "MobileOne", "arch": "s0"}, 32, True),
    "replknet": ({"type": "RepLKNet", "arch": _LARGE_KERNELS}, 64, True),
    "levit": ({"type": "LeViT", "arch": "128s", "img_size": 64}, 64, False),
    "riformer": ({"type": "RIFormer", "arch": _RIFORMER}, 64, False),
    "resnet": ({"type": "ResNet", "depth": 18, "base_channels": 8, "stem_channels": 8}, 32, True),
}


def model_of(name):
    config, size, _ = FAMILIES[name]
    torch.manual_seed(0)
    backbone = build(config)
    backbone.eval()  # LeViT computes a table here
    return randomise(TABLE.Classifier(backbone, size).eval())


@pytest.mark.filterwarnings("ignore:.*zero filters")
@pytest.mark.parametrize("name", FAMILIES)
def test_families_compute_the_same(name):
    _, size, is_pruned = FAMILIES[name]
    model = model_of(name)
    if is_pruned:
        prune(model)
        model, _ = compact(model, (3, size, size), check=False)
    before = copy.deepcopy(model.state_dict())
    fused, fusion = fuse(model, (3, size, size), part="backbone")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert fusion.check["dtype"] == "float64"
    assert fusion.check["max_relative_error"] < 1e-12
    assert bool(fusion.deployed) == (name != "resnet")
    norms = {key for key, module in fused.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert norms == set(fusion.left), "every BatchNorm that stays is named with the reason"
    assert len(norms) == (9 if name == "replknet" else 0), "those before convolutions, and of the output"
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected, found = model(images), fused(images)
    assert ((expected - found).abs().max() / expected.abs().max()).item() < 1e-4
    record = Fusion.from_dict(fusion.to_dict())
    assert record == fusion
    rebuilt = apply_fusion(copy.deepcopy(model).train(), record)
    rebuilt.load_state_dict(fused.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images), found)
    with pytest.raises(RuntimeError, match=r"fused for deployment: .*Compact without --fuse"):
        fused.train()(images)


def test_a_block_that_changes_is_left():
    """MMPretrain's RepVGG block loses its squeeze-and-excitation when it is deployed."""
    arch = {**_ARCH, "se_cfg": {"ratio": 2, "divisor": 1}}
    torch.manual_seed(0)
    model = randomise(build({**_REPVGG, "arch": arch}))
    _, fusion = fuse(model, (3, SIZE, SIZE))
    assert fusion.check["max_relative_error"] < 1e-12
    assert "changes what comes out" in fusion.left["stage_1.0"]
    assert "in it is left" in fusion.left[""]
    assert fusion.folded["stage_1.0.branch_3x3.norm"] == "stage_1.0.branch_3x3.conv"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (lambda bias: nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=bias), nn.BatchNorm2d(6), (2, 4, 8, 8)),
        (lambda bias: nn.Conv2d(4, 4, 3, groups=4, bias=bias), nn.BatchNorm2d(4, affine=False), (2, 4, 8, 8)),
    ],
)
def test_closed_form(layer, norm, shape, bias):
    torch.manual_seed(1)
    conv, norm = layer(bias), copy.deepcopy(norm)
    nn.init.uniform_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    if norm.affine:
        nn.init.uniform_(norm.weight)
        nn.init.uniform_(norm.bias)
    fused, fusion = fuse(nn.Sequential(conv, norm, nn.ReLU()), shape)
    assert fusion.folded == {"1": "0"}
    assert isinstance(fused[1], nn.Identity)
    scale = (norm.weight if norm.affine else 1) / torch.sqrt(norm.running_var + norm.eps)
    start = conv.bias if bias else 0
    assert torch.allclose(fused[0].weight, conv.weight * scale[:, None, None, None], atol=1e-6)
    shift = norm.bias if norm.affine else 0
    assert torch.allclose(fused[0].bias, (start - norm.running_mean) * scale + shift, atol=1e-6)


class Net(nn.Module):
    """A convolution, a linear layer behind pooling, and a way to run them."""

    def __init__(self, run):
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.linear, self.norm1d = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.run = run

    def forward(self, images):
        return self.run(self, images)


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda net, x: (y := net.conv(x), net.norm(y) + y)[1], "something else reads the output of conv"),
        (lambda net, x: net.norm(net.conv(x).relu()), "does not read the output of a convolution"),
        (lambda net, x: (y := net.conv(x), y.relu_(), net.norm(y))[2], "something else reads the output of conv"),
        (lambda net, x: net.norm(net.conv(x)) + net.conv(x), "conv is used several times"),
        (lambda net, x: net.norm(net.norm(net.conv(x))), "it is used several times"),
        (lambda net, x: net.norm(net.conv(x)) * net.conv.weight.sum(), "conv shares its parameters"),
        (lambda net, x: net.norm(net.conv(x)) * net.norm.weight.sum(), "norm shares its parameters"),
        (lambda net, x: [net.norm(y := net.conv(x)), y], "something else reads the output of conv"),
    ],
)
def test_what_must_not_be_folded(run, reason):
    net = randomise(Net(run).eval())
    _, fusion = fuse(net, (3, 8, 8))
    assert "norm" not in fusion.folded
    assert reason in fusion.left["norm"]


def test_linear_layers_are_folded_through_views():
    def run(net, x):
        tokens = net.linear(net.norm(net.conv(x)).flatten(2).transpose(1, 2).contiguous())
        return net.norm1d(tokens.flatten(0, 1)).reshape_as(tokens)

    _, fusion = fuse(randomise(Net(run).eval()), (3, 8, 8))
    assert fusion.folded == {"norm": "conv", "norm1d": "linear"}


def test_bad_input():
    net = randomise(Net(lambda net, x: net.norm(net.conv(x))).eval())
    with pytest.raises(ValueError, match="part 'neck' is no module of this Net"):
        fuse(net, (3, 8, 8), part="neck")
    with pytest.raises(CompactionError, match="fails on images of shape"):
        fuse(net, (4, 8, 8))
    net.linear.half()
    with pytest.raises(CompactionError, match="parameters of several types"):
        fuse(net, (3, 8, 8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "expected a dict with part"),
        ({"part": "", "deployed": {"": "zero_grad"}}, "method 'zero_grad', not one of switch_to_deploy"),
        ({"part": "", "folded": {"norm": 3}}, "folded: expected a dict of names"),
        ({"part": "", "more": {}}, "unknown fields, more"),
    ],
)
def test_a_forged_record_is_refused(content, message):
    if content is not None:
        content = {"deployed": {}, "folded": {}, "left": {}, "check": {}, **content}
    with pytest.raises(FusionRecordError, match=message):
        Fusion.from_dict(content)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Fusion(folded={"norm": "linear"}), "norm cannot be folded into linear"),
        (Fusion(folded={"gone": "conv"}), "there is no module 'gone'"),
        (Fusion(deployed={"conv": "switch_to_deploy"}), "conv cannot be deployed by 'switch_to_deploy'"),
    ],
)
def test_a_record_of_another_network_is_refused(record, message):
    with pytest.raises(FusionRecordError, match=message):
        apply_fusion(Net(None), record)


def test_a_part_has_a_record_of_its_own():
    record = Fusion("backbone", {"backbone.a": "merge_kernel"}, {"backbone.n": "backbone.c"}, {}, {})
    assert record.within("backbone") == Fusion("", {"a": "merge_kernel"}, {"n": "c"})
    assert record.within("neck") is None
