"""Every native split: it runs the backbone as it is, and branches with its weights compute what it computes."""

import functools

import pytest
import torch
from branch_nets import FUSED_CHANNELS, NETS, build, classifier_config
from torch import nn

from mmkdprune.models.branches import (
    TracedStages,
    build_branches,
    find_stage_protocol,
    fresh_copy,
    lowest_map,
    pool,
    share_stages,
    split_neck,
)


@functools.cache
def built(name: str) -> nn.Module:
    torch.manual_seed(0)
    backbone = build({**NETS[name][0]})
    for module in backbone.modules():  # scales that begin at 0 would hide what a block computes
        for attribute in ("gamma", "relative_position_bias_table"):
            if isinstance(value := getattr(module, attribute, None), nn.Parameter):
                nn.init.uniform_(value, 0.5, 1.5)
    return backbone


def images(name: str, number: int = 3) -> torch.Tensor:
    return torch.randn(number, 3, NETS[name][1], NETS[name][1], generator=torch.Generator().manual_seed(1))


def set_mode(module: nn.Module, training: bool) -> None:
    nn.Module.train(module, training)  # some backbones return nothing
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.eval()


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("training", [True, False])
def test_copied_weights_reproduce_the_deployable_network(name, training):
    backbone = built(name)
    protocol = find_stage_protocol(backbone)
    assert not isinstance(protocol, TracedStages)
    branches = build_branches(backbone, protocol, 10)
    for index, branch in enumerate(branches, start=1):
        originals = [*protocol.stages(backbone)[index:], protocol.tail(backbone)]
        for ours, theirs in zip(branch.stages, originals, strict=False):
            ours.load_state_dict(theirs.state_dict())
        if branch.norm is not None:
            branch.norm.load_state_dict(protocol.final_norm(backbone).state_dict())
        branch.fc.load_state_dict(branches[0].fc.state_dict())
    set_mode(backbone, training)
    set_mode(branches, training)
    state = {key: value.clone() for key, value in backbone.state_dict().items()}
    taps, last_map, outputs = protocol.forward(backbone, images(name))
    backbone.load_state_dict(state)
    pooled = pool(last_map, protocol.final_norm(backbone))
    if name in ("convnext", "convnext v2"):
        assert torch.equal(pooled, outputs[-1])
    elif not protocol.has_classifier:
        assert torch.equal(last_map, outputs[-1])
    for branch, tap in zip(branches, taps, strict=False):
        logits, feat, features = branch(tap)
        assert torch.equal(feat, last_map)
        assert torch.equal(features, pooled)
        assert torch.equal(logits, branches[0].fc(pooled))


@pytest.mark.parametrize("name", NETS)
def test_the_backbone_runs_as_it_is(name):
    backbone = built(name)
    protocol = find_stage_protocol(backbone)
    set_mode(backbone, False)
    taps, last_map, outputs = protocol.forward(backbone, images(name))
    expected = backbone(images(name))
    assert len(outputs) == len(expected)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))
    shapes = [(lowest_map(tap).shape[1], NETS[name][1] // lowest_map(tap).shape[2]) for tap in taps]
    assert shapes == protocol.feature_shapes(backbone)
    assert last_map.shape[1] == protocol.out_channels(backbone) == NETS[name][2]
    for number in range(1, protocol.num_stages):
        resumed = protocol.resume(backbone, taps, number)
        assert torch.equal(resumed.last_map, last_map)
        assert torch.equal(resumed.outputs[-1], outputs[-1])


@pytest.mark.parametrize("name", NETS)
def test_the_last_stage_continues_from_its_own_output(name):
    backbone = built(name)
    protocol = find_stage_protocol(backbone)
    set_mode(backbone, False)
    taps, last_map, _ = protocol.forward(backbone, images(name, 2))
    shapes = [value.shape for value in backbone.state_dict().values()]
    duplicate = fresh_copy(backbone, protocol.repeat_last_stage)
    repeated = protocol.stages(duplicate)[-1]
    maps = repeated(taps[-1])
    assert protocol.tail(duplicate)(maps).shape == last_map.shape
    assert lowest_map(maps).shape == lowest_map(taps[-1]).shape
    assert [value.shape for value in backbone.state_dict().values()] == shapes
    own = protocol.stages(backbone)[-1]
    assert sum(p.numel() for p in repeated.parameters()) > 0.5 * sum(p.numel() for p in own.parameters())


@pytest.mark.parametrize(
    ("name", "indices"),
    [
        ("mobilenet v2", (1, 4, 7)),
        ("mobilenet v3 small", (0, 3, 12)),
        ("efficientnet", (0, 2, 6)),
        ("densenet", (0, 3)),
        ("repvgg", (1, 3)),
        ("vgg", (0, 4)),
        ("shufflenet v1", (0, 2)),
        ("convnext, maps", (1, 3)),
        ("swin", (0, 1, 3)),
    ],
)
def test_out_indices_are_those_of_the_backbone(name, indices):
    backbone = build({**NETS[name][0], "out_indices": list(indices)})
    set_mode(backbone, False)
    protocol = find_stage_protocol(backbone)
    outputs, expected = protocol.forward(backbone, images(name, 2)).outputs, backbone(images(name, 2))
    assert len(outputs) == len(expected) == len(indices)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))


def test_outputs_of_swin_after_downsampling():
    backbone = build({**NETS["swin"][0], "out_after_downsample": True, "out_indices": (0, 2, 3)})
    set_mode(backbone, False)
    protocol = find_stage_protocol(backbone)
    outputs, expected = protocol.forward(backbone, images("swin")).outputs, backbone(images("swin"))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(outputs, expected, strict=True))
    channels = protocol.output_channels(backbone)
    assert [output.shape[1] for output in outputs] == [channels[index] for index in (0, 2, 3)]


@pytest.mark.parametrize("name", ["densenet", "convnext", "regnet"])
def test_channels_of_what_the_backbone_returns(name):
    number = find_stage_protocol(built(name)).num_stages
    backbone = build({**NETS[name][0], "out_indices": list(range(number))})
    set_mode(backbone, False)
    channels = find_stage_protocol(backbone).output_channels(backbone)
    assert [output.shape[1] for output in backbone(images(name, 2))] == channels


@pytest.mark.parametrize(
    ("name", "last"),
    [("vgg", 2), ("swin", 1), ("hrnet", 1), ("convnext, maps", 1), ("repvgg", 1), ("shufflenet v1", 1)],
)
def test_light_branches(name, last):
    backbone = built(name)
    protocol = find_stage_protocol(backbone)
    taps, last_map, _ = protocol.forward(backbone, images(name, 2))
    branches = build_branches(backbone, protocol, 10, branch_depth="light", tap_last=True)
    for branch, tap in zip(branches, taps, strict=True):
        assert branch(tap)[1].shape == last_map.shape
    full = build_branches(backbone, protocol, 10, tap_last=True)
    counts = [sum(p.numel() for p in modules[0].parameters()) for modules in (branches, full)]
    assert counts[0] < counts[1]


@pytest.mark.parametrize("name", ["vgg, classifier", "swin, positions", "convnext", "shufflenet v2", "hrnet"])
def test_shared_stages_leave_what_follows_apart(name):
    """What is shared are the stem and the first stages: nothing that runs after them, and no loose parameter twice."""
    first, other = build(NETS[name][0]), build(NETS[name][0])
    protocol = find_stage_protocol(first)
    share_stages(first, [other], protocol, 1)
    shared = {id(p) for p in first.parameters()} & {id(p) for p in other.parameters()}
    before = {id(p) for module in protocol.stages(first)[:1] for p in module.parameters()}
    after = [*protocol.stages(first)[1:], *protocol.modules_after_stages(first)]
    assert before <= shared
    assert not shared & {id(p) for module in after for p in module.parameters()}
    assert len(shared) + sum(1 for module in after for _ in module.parameters()) == len(list(first.parameters()))


def test_the_neck_that_fuses_maps_is_copied():
    config = classifier_config("hrnet")
    backbone, neck = build(config["backbone"]), build(config["neck"])
    protocol = find_stage_protocol(backbone)
    fuse, rest = split_neck(neck)
    assert len(rest) == 1
    branches = build_branches(backbone, protocol, 10, fuse=fuse, tap_last=True)
    set_mode(backbone, False)
    taps, _, outputs = protocol.forward(backbone, images("hrnet", 2))
    own = {id(p) for p in neck.parameters()}
    for index, (branch, tap) in enumerate(zip(branches, taps, strict=True), start=1):
        assert not own & {id(p) for p in branch.parameters()}
        assert branch(tap)[1].shape == (2, FUSED_CHANNELS, 1, 1)
        if index < 4:
            for ours, theirs in zip(branch.stages, protocol.stages(backbone)[index:], strict=False):
                ours.load_state_dict(theirs.state_dict())
            branch.stages[-1].neck.load_state_dict(fuse.state_dict())
            set_mode(branch, False)
            set_mode(neck, False)
            assert torch.equal(branch(tap)[1], fuse(outputs)[-1])


def test_blocks_of_vgg_may_be_fewer():
    backbone = build({"type": "VGG", "depth": 11, "num_stages": 3, "dilations": (1, 1, 1), "out_indices": (2,)})
    protocol = find_stage_protocol(backbone)
    assert protocol.feature_shapes(backbone) == [(64, 2), (128, 4), (256, 8)]
    taps, last_map, _ = protocol.forward(backbone, torch.randn(2, 3, 32, 32))
    for branch, tap in zip(build_branches(backbone, protocol, 10, tap_last=True), taps, strict=True):
        assert branch(tap)[1].shape == last_map.shape


def test_a_fused_repvgg_is_refused():
    with pytest.raises(ValueError, match=r"deploy=True.*set model.backbone.deploy=False"):
        find_stage_protocol(build({**NETS["repvgg"][0], "deploy": True}))
