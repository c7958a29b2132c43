"""What is read from one forward pass: on networks of MMPretrain and on small ones made for a purpose."""

import re
import warnings
from pathlib import Path

import pytest
import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import nn
from torch.nn import functional as F
from toy_nets import Residual, make_classifier

from mmkdprune.pruning import FilterPruner, make_pruner
from mmkdprune.pruning.tracing.layers import trace_channels
from mmkdprune.pruning.tracing.scope import trace_by_order, trace_scope


def build(name, **arguments):
    init_default_scope("mmpretrain")
    torch.manual_seed(0)
    network = MODELS.build({"type": name, **arguments})
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network


# name, arguments, convolutions, masks of their own: independent, group
NETWORKS = [
    ("ResNet", {"depth": 18}, 20, 17, 12),
    ("ResNet", {"depth": 50}, 53, 49, 37),
    ("ResNet_CIFAR", {"depth": 18}, 20, 17, 12),
    ("ResNetV1d", {"depth": 50}, 55, 51, 39),
    ("mmkdprune.CifarResNet", {"depth": 20}, 21, 19, 12),
    ("mmkdprune.CifarResNet", {"depth": 20, "shortcut": "pad"}, 19, 19, 9),
    ("ResNeXt", {"depth": 50, "groups": 32, "width_per_group": 4}, 53, 33, 5),
    ("SEResNet", {"depth": 50}, 85, 65, 53),
    ("MobileNetV2", {}, 52, 35, 25),
    ("MobileNetV3", {"arch": "small_050"}, 52, None, None),
    ("VGG", {"depth": 11, "norm_cfg": {"type": "BN"}}, 8, 8, 8),
    ("VGG", {"depth": 11}, 8, 7, 7),  # the output of the last one is that of the network
    ("RepVGG", {"arch": "A0"}, 44, 44, None),
    ("RegNet", {"arch": "regnetx_400mf"}, 71, None, None),
    ("HRNet", {"arch": "w18"}, 305, None, None),
    ("EfficientNet", {"arch": "b0"}, 81, None, None),
]


@pytest.mark.parametrize(
    ("name", "arguments", "convs", "independent", "group"), NETWORKS, ids=[f"{row[0]}{row[1]}" for row in NETWORKS]
)
def test_zero_filters_are_zero_channels(name, arguments, convs, independent, group):
    """Prune to the end; whatever reaches another layer in evaluation must be exactly zero at the masked channels."""
    network = build(name, **arguments)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    for coupling, expected in (("independent", independent), ("group", group)):
        random_state = torch.get_rng_state()
        pruner = make_pruner(network, "hfp", 0.4, coupling=coupling)
        assert torch.equal(torch.get_rng_state(), random_state)
        assert [module.training for module in network.modules()] == modes
        assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
        assert len(pruner.masks) + len(pruner.skipped) == convs
        assert expected is None or len(pruner.units) == expected
        pruner.finalize()
        # each layer of a RepVGG reads a sum of two
        assert assert_zero_channels(network, pruner) > (3 if (name, coupling) != ("RepVGG", "independent") else -1)
        network.load_state_dict(before)


def assert_zero_channels(network, pruner):
    """Masked channels of what dense convolutions read are zero, where they come from one masked layer (or group)."""
    trace = trace_channels(network, torch.zeros(1, 3, 64, 64))
    inputs, handles, checked = {}, [], 0
    for name in trace.convs:
        layer = network.get_submodule(name)
        handles.append(layer.register_forward_pre_hook(lambda _, args, name=name: inputs.update({name: args[0]})))
    modes = [module.training for module in network.modules()]
    for module in network.modules():
        module.training = False
    with torch.no_grad():
        network(torch.randn(1, 3, 64, 64))
    for module, mode in zip(network.modules(), modes, strict=True):
        module.training = mode
    for handle in handles:
        handle.remove()
    for name, conv in trace.convs.items():
        node = conv.inputs.node if conv.inputs is not None else None
        if node is None or not node.sources:
            continue
        masks = {pruner.masks.get(source) for source in node.sources}
        if pruner.selection.coupling == "group":
            assert len({None if mask is None else tuple(mask.tolist()) for mask in masks}) == 1
        elif len(masks) > 1:
            continue
        mask = next(iter(masks))
        if mask is not None:
            checked += 1
            assert not inputs[name][:, mask].any(), name
            assert inputs[name][:, ~mask].any()
    return checked


def test_masks_of_a_group_are_one():
    model = make_classifier()
    pruner = make_pruner(model, "hfp", 0.4, coupling="group")
    assert [unit.members for unit in pruner.units] == [
        ["conv1", "layer1.conv2"],
        ["layer1.conv1"],
        ["layer2.conv1"],
        ["layer2.conv2", "layer2.downsample.0"],
    ]
    filters = [model.backbone.get_submodule(name).weight.detach().flatten(1) for name in ("conv1", "layer1.conv2")]
    score = sum(weight.square().sum(1) for weight in filters).sqrt()
    pruner.step(0, 1)
    assert set(pruner.masks["conv1"].nonzero().flatten().tolist()) == set(score.argsort()[:4].tolist())
    assert torch.equal(pruner.masks["conv1"], pruner.masks["layer1.conv2"])
    assert not model.backbone.layer1.conv2.weight[pruner.masks["conv1"]].any()


def test_a_group_with_a_member_that_is_left_out_is_not_pruned():
    model = make_classifier()
    pruner = FilterPruner(model, 0.4, coupling="group", exclude="layer1.conv2")
    assert pruner.skipped["conv1"] == "layer1.conv2 of its group is left out (exclude='layer1.conv2')"
    assert list(pruner.masks) == ["layer1.conv1", "layer2.conv1", "layer2.conv2", "layer2.downsample.0"]
    # shortcuts are members whatever the patterns say
    pruner = FilterPruner(model, 0.4, coupling="group", exclude="downsample", include=["layer2"])
    assert list(pruner.masks) == ["layer2.conv1", "layer2.conv2", "layer2.downsample.0"]
    pruner = FilterPruner(model, 0.4, coupling="group", prune_first=False)
    assert "conv1" not in pruner.masks
    with pytest.raises(ValueError, match="rate_map gives different rates to layers that share a mask"):
        FilterPruner(model, 0.4, coupling="group", rate_map={"^conv1": 0.2})


@pytest.mark.parametrize("coupling", ["independent", "group"])
def test_depthwise_convolutions_take_the_mask_of_what_feeds_them(coupling):
    network = build("MobileNetV2")
    pruner = make_pruner(network, "hfp", 0.4, coupling=coupling)
    pruner.step(0, 1)
    depthwise = [
        name for name, module in network.named_modules() if isinstance(module, nn.Conv2d) and module.groups > 1
    ]
    assert set(depthwise) <= set(pruner.masks)
    expand, follower = "layer2.0.conv.0.conv", "layer2.0.conv.1.conv"
    assert pruner.masks[expand] is pruner.masks[follower]
    zero = (network.get_submodule(follower).weight == 0).flatten(1).all(1)
    assert torch.equal(zero, pruner.masks[expand])
    if coupling == "independent":  # ranked by the filters of the layer that feeds it alone
        norms = build("MobileNetV2").get_submodule(expand).weight.detach().flatten(1).norm(dim=1)
        assert set(zero.nonzero().flatten().tolist()) == set(norms.argsort()[: int(zero.sum())].tolist())


def test_grouped_convolutions_are_left_alone():
    network = build("ResNeXt", depth=50, groups=32, width_per_group=4)
    pruner = make_pruner(network, "hfp", 0.4)
    assert pruner.skipped["layer1.0.conv2"] == "grouped convolution"
    assert "layer1.0.conv1" in pruner.masks
    grouped = make_pruner(network, "hfp", 0.4, coupling="group")
    assert "grouped convolution layer1.0.conv2 (32 groups) uses its channels" in grouped.skipped["layer1.0.conv1"]
    assert "layer1.0.conv3" in grouped.masks


def test_gates_are_left_alone_or_follow_their_group():
    network = build("SEResNet", depth=50)
    gate = "layer1.0.se_layer.conv2.conv"
    assert make_pruner(network, "hfp", 0.4).skipped[gate] == "its output is a gate on other channels"
    pruner = make_pruner(network, "hfp", 0.4, coupling="group")
    assert pruner.masks[gate] is pruner.masks["layer1.0.conv3"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ResNet", {"depth": 18, "frozen_stages": 2}),
        ("ResNet", {"depth": 18, "with_cp": True}),
        ("ResNet", {"depth": 18, "norm_eval": True, "frozen_stages": 1}),
    ],
)
def test_frozen_stages_checkpointing_and_modes_make_no_difference(name, arguments):
    usual = make_pruner(build(name, depth=18), "hfp", 0.4)
    network = build(name, **arguments)
    network.train()
    state = [
        (module.training, *(parameter.requires_grad for parameter in module.parameters()))
        for module in network.modules()
    ]
    special = make_pruner(network, "hfp", 0.4)
    assert [unit.slots for unit in special.units] == [unit.slots for unit in usual.units]
    assert state == [
        (module.training, *(parameter.requires_grad for parameter in module.parameters()))
        for module in network.modules()
    ]


class Odd(nn.Module):
    """Two convolutions with something between and behind them."""

    def __init__(self, between, width=8):
        super().__init__()
        self.conv1, self.between, self.conv2 = nn.Conv2d(3, width, 3), between, nn.Conv2d(width, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(self.conv2(self.between(self.conv1(x))).mean((2, 3)))


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (nn.Sigmoid(), "sigmoid(0) is not 0"),
        (nn.Softplus(), "softplus(0) is not 0"),
        (nn.GroupNorm(2, 8), "a zero channel changes the statistics of the GroupNorm that follows"),
        (nn.GroupNorm(1, 8), "a zero channel changes the statistics of the GroupNorm that follows"),
    ],
)
def test_layers_whose_zeros_do_not_stay_are_warned_of(between, reason):
    for coupling in ("independent", "group"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            FilterPruner(Odd(between), 0.5, coupling=coupling, include="conv1|conv2")
        texts = [str(one.message) for one in caught if "cannot be removed exactly" in str(one.message)]
        if isinstance(between, nn.GroupNorm) and coupling == "group":
            assert not texts  # not pruned at all
        else:
            assert [f"behind conv1 ({reason})" in text for text in texts] == [True]


@pytest.mark.parametrize(
    "between",
    [
        *(nn.ReLU(), nn.ReLU6(), nn.SiLU(), nn.Hardswish(), nn.GELU(), nn.ELU(), nn.Mish(), nn.LeakyReLU(), nn.Tanh()),
        *(nn.Dropout(0.5), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.PReLU(), nn.Upsample(scale_factor=2), nn.Identity()),
    ],
    ids=lambda module: type(module).__name__,
)
def test_activations_that_keep_zeros(between):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = FilterPruner(Odd(between), 0.5, coupling="group")
    assert list(pruner.masks) == ["conv1", "conv2"]


class PreActivation(nn.Module):
    """The BatchNorm of a sum of layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.bn2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 2)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.conv1(F.relu(self.bn(x)))
        return self.fc(self.conv2(F.relu(self.bn2(x))).mean((2, 3)))


def test_the_norm_behind_a_sum_belongs_to_no_single_layer():
    norms = lambda pruner: {  # noqa: E731
        unit.name: {slot.path for slot in unit.slots if slot.is_norm} for unit in pruner.units
    }
    assert norms(FilterPruner(PreActivation(), 0.5)) == {"stem": {"bn"}, "conv1": set(), "conv2": set()}
    group = FilterPruner(PreActivation(), 0.5, coupling="group")
    assert norms(group) == {"stem": {"bn", "bn2"}, "conv2": set()}


def test_norms_behind_a_concatenation_are_zeroed_in_part():
    network = build("DenseNet", arch="121")
    pruner = make_pruner(network, "hfp", 0.4)
    (unit,) = [unit for unit in pruner.units if unit.name == "stages.0.block.1.conv2"]
    offsets = {(slot.path, slot.offset) for slot in unit.slots if slot.is_norm}
    assert ("stages.0.block.2.norm1", 64 + 32) in offsets
    assert ("transitions.0.norm", 64 + 32) in offsets
    pruner.finalize()
    scale = network.transitions[0].norm.weight[96:128]
    assert torch.equal(scale == 0, pruner.masks[unit.name])


def test_a_convolution_that_is_called_twice_and_one_that_never_is():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn1, self.bn2 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)
            self.unused, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

        def forward(self, x):
            x = F.relu(self.bn2(self.conv(F.relu(self.bn1(self.conv(x))))))
            return self.fc(x.mean((2, 3)))

    pruner = FilterPruner(Shared(), 0.4)
    assert list(pruner.masks) == ["conv"]
    assert {slot.path for slot in pruner.units[0].slots if slot.is_norm} == {"bn1", "bn2"}


def test_a_classifier_that_wants_another_size_does_not_matter():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30 * 30, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = FilterPruner(network, 0.5)
    assert {slot.path for slot in pruner.units[0].slots if slot.is_norm} == {"1"}


class Picky(Residual):
    def forward(self, x):
        if x.shape[-1] != 48:
            raise ValueError("48 px only")
        return super().forward(x)


def test_a_network_that_runs_on_no_usual_size():
    with pytest.warns(UserWarning, match=r"could not be run on images of 64, 32.*48 px only.*Pass example_input"):
        guessed = FilterPruner(Picky(), 0.4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        known = FilterPruner(Picky(), 0.4, example_input=(1, 3, 48, 48))
        assert list(FilterPruner(Picky(), 0.4, example_input=torch.zeros(1, 3, 48, 48)).masks) == list(known.masks)
    assert [unit.slots for unit in guessed.units] == [unit.slots for unit in known.units]
    with pytest.raises(ValueError, match="48 px only"):
        FilterPruner(Picky(), 0.4, example_input=(1, 3, 32, 32))


class SpaceToDepth(nn.Module):
    """A stem as YOLOX's Focus, or of patches: pixels next to each other become channels."""

    def __init__(self, channels, block):
        super().__init__()
        self.block = block
        self.stem, self.norm = nn.Conv2d(channels * block**2, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.rest = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.channels = channels

    def forward(self, x):
        assert x.shape[1] == self.channels
        return self.rest(self.norm(self.stem(F.pixel_unshuffle(x, self.block))))


@pytest.mark.parametrize(("channels", "block"), [(3, 2), (3, 4), (1, 2), (1, 4), (5, 1), (5, 2)])
@pytest.mark.parametrize("coupling", ["independent", "group"])
def test_stems_of_several_pixels_are_followed(channels, block, coupling):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = make_pruner(SpaceToDepth(channels, block), "hfp", 0.4, coupling=coupling)
    assert list(pruner.masks) == ["stem", "rest.1"]


def test_the_data_preprocessor_knows_the_channels_of_the_images():
    class Preprocessor(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.zeros(7, 1, 1))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.data_preprocessor = Preprocessor()
            # what reads the images is not the first layer that is registered
            self.backbone = nn.ModuleDict({"late": nn.Conv2d(8, 4, 1), "early": nn.Conv2d(7, 8, 1)})
            self.backbone.forward = self.run
            self.head = nn.Conv2d(4, 2, 1)

        def run(self, x):
            assert x.shape[1] == 7
            return self.backbone["late"](self.backbone["early"](x).relu())

        def forward(self, x):
            return self.head(self.run(x))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pruner = make_pruner(Model(), "hfp", 0.5)
    assert list(pruner.masks) == ["early", "late"]


def test_the_backbone_of_yolox_is_followed():
    pytest.importorskip("mmdet.models")
    from mmdet.registry import MODELS as DETECTION

    init_default_scope("mmdet")
    network = DETECTION.build({"type": "CSPDarknet", "deepen_factor": 0.33, "widen_factor": 0.375})
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*could not be run")
        assert len(make_pruner(network, "hfp", 0.4, coupling="group").masks) == 35


def test_errors_of_networks_that_cannot_be_run_name_the_argument():
    with (
        pytest.warns(UserWarning, match="Pass example_input"),
        pytest.raises(ValueError, match=r"nothing is left .*ValueError: 48 px only\): pass example_input, images or"),
    ):
        make_pruner(Picky(), "hfp", 0.4, coupling="group")


def test_without_a_pass_layers_without_a_norm_are_taken_for_outputs():
    class Detector(Picky):
        def __init__(self):
            super().__init__()
            self.classes = nn.Conv2d(8, 5, 1)

    with pytest.warns(UserWarning, match="could not be run"):
        pruner = make_pruner(Detector(), "hfp", 0.4)
    assert "no BatchNorm was registered behind it" in pruner.skipped["classes"]
    assert len(pruner.masks) > 1


@pytest.mark.parametrize(("name", "arguments"), [("ResNet", {"depth": 50}), ("MobileNetV2", {})])
def test_the_order_of_registration_agrees_on_usual_networks(name, arguments):
    network = build(name, **arguments)
    usual = make_pruner(network, "hfp", 0.4)
    by_order = trace_by_order(network)
    by_pass = trace_scope(network, None)
    assert [(conv.name, conv.kind, conv.shortcut) for conv in by_order.convs.values()] == sorted(
        ((conv.name, conv.kind, conv.shortcut) for conv in by_pass.convs.values()),
        key=lambda row: list(by_order.convs).index(row[0]),
    )
    pairs = {next(iter(node.sources)): node.norms for node in by_order.nodes}
    for unit in usual.units:
        assert [(slot.path, slot.offset) for slot in unit.slots if slot.is_norm][::4] == pairs[unit.name]


def test_the_engine_imports_nothing_of_mmengine():
    import mmkdprune.pruning as package

    files = sorted(Path(package.__file__).parent.rglob("*.py"))
    assert len(files) > 30
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"^\s*(from|import) (mm(?!kdprune\b)|torch_pruning)", text, flags=re.M), file


@pytest.mark.parametrize("length", [1, 2, 30])
def test_a_projection_beside_two_or_more_convolutions_is_a_shortcut(length):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.side = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
            self.body = nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(length)))

        def forward(self, images):
            images = self.stem(images)
            return self.side(images) + self.body(images)

    convs = trace_channels(Block(), torch.zeros(1, 3, 8, 8)).convs
    assert [name for name, conv in convs.items() if conv.shortcut] == (["side"] if length > 1 else [])
