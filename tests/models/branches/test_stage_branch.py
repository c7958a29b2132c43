import pytest
import torch
from mmpretrain.models.backbones import EfficientNetV2, MobileNetV2, ResNet, ResNet_CIFAR
from testing_helpers import count_parameters

from mmkdprune.models.backbones import CifarMobileNetV2, CifarResNet
from mmkdprune.models.branches import build_branches, find_stage_protocol


def branches_of(backbone, num_classes=100, **options):
    return build_branches(backbone, find_stage_protocol(backbone), num_classes, **options)


@pytest.mark.parametrize(
    ("backbone", "num_classes", "expected"),
    [
        (ResNet_CIFAR(18), 100, 30_060_076),
        (ResNet_CIFAR(50), 100, 60_925_228),
        (ResNet(50), 1000, 66_457_528),
    ],
)
def test_parameter_counts_of_the_paper(backbone, num_classes, expected):
    assert count_parameters(branches_of(backbone, num_classes)) == expected


def test_all_branches_end_in_the_shape_of_the_last_stage():
    for backbone, size in ((CifarResNet(20), 18), (MobileNetV2(), 70), (ResNet(18), 65)):
        protocol = find_stage_protocol(backbone)
        taps, last_map, _ = protocol.forward(backbone, torch.randn(2, 3, size, size))
        for branch_type in ("auto", "conv"):
            branches = build_branches(backbone, protocol, 7, branch_type=branch_type)
            assert len(branches) == protocol.num_stages - 1
            for branch, tap in zip(branches, taps, strict=False):
                logits, feat, pooled = branch(tap, last_map.shape[-2:])
                assert logits.shape == (2, 7)
                assert feat.shape == last_map.shape
                assert torch.equal(pooled, feat.mean((2, 3)))


@pytest.mark.parametrize("training", [True, False])
def test_copied_weights_reproduce_the_deployable_network(training):
    backbone = ResNet_CIFAR(18, zero_init_residual=False)
    protocol = find_stage_protocol(backbone)
    branches = build_branches(backbone, protocol, 10)
    backbone.train(training)
    branches.train(training)
    for index, branch in enumerate(branches, start=1):
        for ours, theirs in zip(branch.stages, protocol.stages(backbone)[index:], strict=True):
            ours.load_state_dict(theirs.state_dict())
        branch.fc.load_state_dict(branches[0].fc.state_dict())
    taps, *_ = protocol.forward(backbone, torch.randn(4, 3, 32, 32))
    logits = branches[0].fc(taps[-1].mean((2, 3)))
    for branch, tap in zip(branches, taps, strict=False):
        branch_logits, feat, _ = branch(tap)
        assert torch.equal(feat, taps[-1])
        assert torch.equal(branch_logits, logits)


def test_light_branches_have_one_block_a_stage():
    branches = branches_of(ResNet(50), branch_depth="light")
    assert [len(stage) for branch in branches for stage in branch.stages] == [1] * 6


def test_branches_may_differ_in_depth():
    branches = branches_of(ResNet(50), branch_depth=[2, "full", "light"])
    assert [[len(stage) for stage in branch.stages] for branch in branches] == [[2, 2, 2], [6, 3], [1]]


def test_the_backbone_is_not_changed():
    backbone = CifarResNet(20)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    branches_of(backbone)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("backbone", "options", "message"),
    [
        (CifarResNet(20), {"branch_type": "copy"}, "branch_type must be one of .* got 'copy'"),
        (CifarResNet(20), {"branch_depth": "half"}, "branch_depth must be one of .* got 'half'"),
        (CifarResNet(20), {"branch_depth": 0}, "branch_depth must be one of .* positive number of blocks, got 0"),
        (CifarResNet(20), {"branch_depth": ["full"]}, "branch_depth has 1 entries for 2 branches"),
        (CifarMobileNetV2(), {"branch_depth": "light"}, "that block gives 32 channels and the stage 48"),
        (EfficientNetV2("b0"), {"branch_type": "stage_copy"}, "EfficientNetV2 is not: use branch_type='conv'"),
    ],
)
def test_bad_input(backbone, options, message):
    with pytest.raises(ValueError, match=message):
        branches_of(backbone, **options)
