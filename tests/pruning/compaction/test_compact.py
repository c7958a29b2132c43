"""Compaction on every listed backbone: exact, smaller, and refused where it would not be exact."""

import copy
import warnings

import pytest
import torch
from compaction_nets import NETS, SIZE, build, classifier, count, prune, randomise
from torch import nn
from toy_nets import Classifier as ToyClassifier
from toy_nets import make_classifier

from mmkdprune.pruning import CompactionError, apply_plan, compact, make_pruner
from mmkdprune.pruning.compaction.plan import Plan

# What `group` masks cannot reach in these; `independent` ones can.
NO_GROUPS = {"convnext", "cifar_shufflenetv1"}
HIDDEN_UNITS = {"convnext": {"include": "pointwise_conv1"}}
# Zero filters that stay although their whole group is masked: what is split and shuffled.
STAYS = {"cifar_shufflenetv2"}


def images(number=2, size=SIZE, dtype=torch.float32, seed=3):
    return torch.randn(number, 3, size, size, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative_error(first, second, probe):
    with torch.no_grad():
        expected, found = first(probe), second(probe)
    return ((expected - found).abs().max() / expected.abs().max()).item()


@pytest.mark.filterwarnings("ignore:zero filters do not become zero channels")
@pytest.mark.parametrize("coupling", ["independent", "group"])
@pytest.mark.parametrize("name", NETS)
def test_every_backbone_is_exact_and_smaller(name, coupling):
    if coupling == "group" and name in NO_GROUPS:
        pytest.skip("all groups of this network are blocked")
    model = classifier(name)
    pruner = prune(model, coupling, **HIDDEN_UNITS.get(name, {}))
    before = copy.deepcopy(model.state_dict())
    small, plan = compact(model, (3, SIZE, SIZE))
    assert plan.check["max_relative_error"] < 1e-5
    assert len(plan.check["sizes"]) == 2
    assert relative_error(model, small, images(size=2 * SIZE)) < 1e-5
    assert count(small) < count(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if coupling == "group" and name not in STAYS:
        assert not plan.left, "masks and compaction must agree on what is coupled"
        for layer, mask in pruner.masks.items():
            assert plan.kept(f"backbone.{layer}") == (~mask).nonzero().flatten().tolist()
    double = copy.deepcopy(model).double()
    exact, _ = compact(double, (3, SIZE, SIZE), check=False)
    assert relative_error(double, exact, images(dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize("name", ["resnet50", "resnext50", "densenet", "hrnet", "cifar_mobilenetv2"])
def test_divisor_rounds_up_and_stays_exact(name):
    model = classifier(name)
    prune(model)
    small, plan = compact(model, (3, SIZE, SIZE), divisor=4)
    assert plan.divisor == 4
    assert count(small) < count(model)
    for module in small.backbone.modules():
        if isinstance(module, nn.Conv2d):
            assert module.out_channels % 4 == 0
    tight, _ = compact(model, (3, SIZE, SIZE))
    assert count(tight) < count(small)


def test_masks_are_taken_as_zeros():
    model = classifier("resnet18")
    pruner = prune(copy.deepcopy(model))
    zeroed = copy.deepcopy(model)
    for name, mask in pruner.masks.items():
        zeroed.backbone.get_submodule(name).weight.data[mask] = 0
    for module in [module for network in (model, zeroed) for module in network.modules()]:
        if isinstance(module, nn.BatchNorm2d):  # shifts that vanish at zero inputs
            module.running_mean.zero_()
            module.bias.data.zero_()
    small, plan = compact(model, (3, SIZE, SIZE), masks=pruner.masks)
    assert relative_error(zeroed, small, images()) < 1e-5
    assert not plan.left
    full = {f"backbone.{name}": mask for name, mask in pruner.masks.items()}
    assert compact(model, (3, SIZE, SIZE), masks=full)[1].layers == plan.layers


def test_zeros_of_any_origin_are_found():
    """No pruner: zero rows of linear layers, and channels that only a BatchNorm silences."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.PReLU(8), nn.Flatten(),
        nn.Linear(8 * 36, 12), nn.GELU(), nn.Linear(12, 5),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[1].weight[[1, 5]] = 0
        model[4].weight[:3] = 0
        model[4].bias[:3] = 0
    small, plan = compact(model, (3, 8, 8))
    assert (small[0].out_channels, small[2].num_parameters, small[4].in_features) == (6, 6, 6 * 36)
    assert small[6].in_features == 9
    assert relative_error(model, small, images(size=8)) < 1e-5
    assert plan.check["sizes"] == [[8, 8]]  # the classifier takes no other


def test_convnext_hidden_units_of_linear_layers():
    model = classifier("convnext", linear_pw_conv=True)
    masks = {}
    for name, module in model.backbone.named_modules():
        if name.endswith("pointwise_conv1"):
            masks[name] = torch.arange(module.out_features) % 3 == 0
    small, _ = compact(model, (3, SIZE, SIZE), masks=masks)
    assert small.backbone.stages[0][0].pointwise_conv1.out_features == 64 - 22
    for name, mask in masks.items():
        layer = model.backbone.get_submodule(name)
        layer.weight.data[mask], layer.bias.data[mask] = 0, 0
    assert relative_error(model, small, images()) < 1e-5


@pytest.mark.parametrize("rates", [(0.5, 0.25), (0.25, 0.25)])
def test_groups_of_a_convolution_stay_equal(rates):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 12, 3, padding=1, groups=2), nn.ReLU(), nn.Conv2d(12, 4, 1)
    )
    pruned = [torch.arange(8)[: int(8 * rate)] + 8 * group for group, rate in enumerate(rates)]
    with torch.no_grad():
        for tensor in (model[0].weight, model[0].bias):
            tensor[torch.cat(pruned)] = 0
        for tensor in (model[2].weight, model[2].bias):
            tensor[[0, 3, 7]] = 0  # two of the first group, one of the second
    small, plan = compact(model, (3, 8, 8))
    assert small[0].out_channels == 16 - 2 * 2
    assert (small[2].groups, small[2].in_channels, small[2].out_channels) == (2, 12, 10)
    assert relative_error(model, small, images(size=8)) < 1e-5
    assert plan.left["2"][0] == 1
    assert "equally large" in plan.left["2"][1]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "cifar_wide_resnet"])
def test_scatter(name):
    model = classifier(name)
    prune(model, "independent")
    plain, _ = compact(model, (3, SIZE, SIZE))
    small, plan = compact(model, (3, SIZE, SIZE), scatter=True)
    assert count(small) < count(plain) or name == "cifar_wide_resnet"  # no BatchNorm behind a block's last convolution
    assert relative_error(model, small, images()) < 1e-5
    assert count(plain) < count(model)
    rebuilt = apply_plan(classifier(name, seed=1), Plan.from_dict(plan.to_dict()))
    rebuilt.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(rebuilt.eval()(images()), small(images()))
    if name == "resnet18":
        assert small.backbone.layer1[0].conv2.out_channels == 10
        width = small.backbone.layer1[0].conv1.in_channels
        assert small.backbone.layer1[0](torch.randn(1, width, 4, 4)).shape[1] == width > 10


def test_frozen_stages_checkpointing_and_modes():
    model = classifier("resnet18", frozen_stages=1, with_cp=True, norm_eval=True)
    model.backbone.train()
    prune(model)
    modes = [module.training for module in model.modules()]
    small, _ = compact(model, (3, SIZE, SIZE))
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in small.modules()] == modes
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert {name for name, parameter in small.named_parameters() if not parameter.requires_grad} == frozen
    assert frozen
    small.backbone.train()
    assert not small.backbone.layer1[0].bn1.training
    small(images()).sum().backward()
    assert small.backbone.layer2[0].conv1.weight.grad is not None
    assert small.backbone.layer1[0].conv1.weight.grad is None


def test_nothing_is_shared_with_the_model():
    model = classifier("resnet18")
    prune(model)
    small, _ = compact(model, (3, SIZE, SIZE), check=False)
    own = {value.data_ptr() for value in (*model.parameters(), *model.buffers())}
    assert not own & {value.data_ptr() for value in (*small.parameters(), *small.buffers())}


def test_the_widths_of_stages_are_readable():
    from mmkdprune.models.branches.stages import find_stage_protocol

    model = classifier("resnet50")
    prune(model)
    small, plan = compact(model, (3, SIZE, SIZE), check=False)
    shapes = find_stage_protocol(small.backbone).feature_shapes(small.backbone)
    assert [channels for channels, _ in shapes] == [39, 77, 154, 308]
    assert plan.widths["backbone.layer2"] == (128, 77)
    model = classifier("cifar_vgg")
    prune(model)
    small, _ = compact(model, (3, SIZE, SIZE), check=False)
    assert small.backbone.feat_dim == small.fc.in_features
    assert small.backbone.stage_channels[-1] == small.backbone.feat_dim


def test_a_backbone_alone_keeps_what_it_returns():
    backbone = build({**NETS["resnet18"], "out_indices": (1, 3)})
    randomise(backbone)
    for module in backbone.modules():
        module.training = False
    prune(backbone)
    small, plan = compact(backbone, (3, SIZE, SIZE))
    with torch.no_grad():
        for one, other in zip(backbone(images()), small(images()), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert "outputs" in plan.left["layer4.0.conv2"][1]
    assert plan.kept("layer4.0.conv1") is not None
    assert plan.kept("layer1.0.conv2") is not None  # read by layer2 only


def test_memory_of_half_precision_models():
    model = classifier("cifar_resnet").bfloat16()
    prune(model)
    small, plan = compact(model, (3, SIZE, SIZE))
    assert plan.check["max_relative_error"] < 1e-5
    assert next(small.parameters()).dtype == torch.bfloat16


class Gated(nn.Module):
    """A pruned convolution whose zeros become a half."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, inputs):
        return self.second(torch.sigmoid(self.first(inputs)))


class CountsOnWidth(nn.Module):
    """Reshapes to a number of channels that stands in the code."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, inputs):
        return self.second(self.first(inputs).reshape(-1, 8, *inputs.shape[2:]))


class Shuffled(nn.Module):
    """Its small form would run, and give something else."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, inputs):
        scale = 2.0 if self.first.out_channels < 8 else 1.0
        return self.second(self.first(inputs) * scale)


def zero_filters(model, name="first", number=3):
    layer = model.get_submodule(name)
    layer.weight.data[:number] = 0
    layer.bias.data[:number] = 0
    return model


def not_pruned():
    return classifier("resnet18"), {}


def constant_shift():
    model = classifier("resnet18")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prune(model, bn_policy="none")
    return model, {}


def foreign_masks():
    return classifier("resnet18"), {"masks": {"layer9.conv1": torch.ones(4, dtype=torch.bool)}}


def masks_of_other_size():
    return classifier("resnet18"), {"masks": {"layer1.0.conv1": torch.ones(9, dtype=torch.bool)}}


def masks_of_weights():
    return classifier("resnet18"), {"masks": {"layer1.0.conv1": torch.ones(16, 16, 3, 3, dtype=torch.bool)}}


def unreachable():
    model = classifier("resnet18")
    prune(model, "independent", include="layer1.0.conv2")
    return model, {}


def no_image_network():
    return nn.Sequential(nn.LayerNorm(SIZE), nn.GELU()), {}


def training_parts():
    from testing_helpers import build_model, network

    return build_model("mmkdprune.MixSKD", **network(8, 10)), {}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (not_pruned, "is not pruned: no filter is zero"),
        (
            constant_shift,
            r"none of them can be removed \(\d+ of backbone\.conv1: BatchNorm backbone\.bn1 turns zeros into a const",
        ),
        (lambda: (zero_filters(Gated()), {}), r"3 of first: sigmoid\(0\) is not 0"),
        (lambda: (zero_filters(CountsOnWidth()), {}), "its code must count on their number"),
        (
            lambda: (zero_filters(Shuffled()), {}),
            "the code behind first counts on their number: operator mul gets 2 in place of 1",
        ),
        (foreign_masks, r"no layer 'layer9\.conv1' in this Classifier"),
        (masks_of_other_size, r"layer1\.0\.conv1 needs a bool mask of shape \(16,\)"),
        (masks_of_weights, "masks of weights"),
        (lambda: (classifier("resnet18"), {"masks": {}}), "masks is empty"),
        (unreachable, r"6 filters .* none of them can be removed \(6 of backbone\.layer1\.0\.conv2: .*not zero"),
        (no_image_network, "is not supported"),
        (training_parts, r"parts that are only for training .*mmkdprune export --part classifier"),
    ],
)
def test_refused(make, message):
    model, options = make()
    with pytest.raises(CompactionError, match=message):
        compact(model, (3, SIZE, SIZE), **options)


def test_bad_arguments():
    model = ToyClassifier()
    with pytest.raises(ValueError, match="divisor must be a whole number"):
        compact(model, (3, 8, 8), divisor=0)
    with pytest.raises(ValueError, match="example_input"):
        compact(model, (8, 8))


def test_a_shared_weight_is_refused():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)]
    model = nn.Sequential(*layers)
    model[4].weight = model[2].weight
    for name in ("0", "2", "4"):
        zero_filters(model, name)
    with pytest.raises(CompactionError, match="share a weight"):
        compact(model, (3, 8, 8))


def test_a_layer_keeps_one_channel():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    zero_filters(model, "0", 8)
    small, _ = compact(model, (3, 8, 8))
    assert small[0].out_channels == 1


def test_training_then_compaction_keeps_every_decision():
    from toy_nets import make_task, train_pruned

    model, task = make_classifier(), make_task()
    pruner = make_pruner(model, "ghfp-asrfp", 0.4, coupling="group")
    train_pruned(model, pruner, task)
    pruner.finalize()
    model.eval()
    small, _ = compact(model, (3, 8, 8))
    with torch.no_grad():
        assert torch.equal(model(task[0]).argmax(1), small(task[0]).argmax(1))
    assert count(small) < 0.5 * count(model)
