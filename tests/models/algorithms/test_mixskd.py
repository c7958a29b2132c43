import copy
import math

import pytest
import torch
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmpretrain.models.classifiers import ImageClassifier
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from testing_helpers import (
    assert_images_stay_channels_last,
    assert_matches_golden,
    assert_overfits,
    count_parameters,
    det,
    forbid_host_synchronisation,
    golden,
    set_shape_only_weights,
)

from mmkdprune.models.algorithms import MixSKD
from mmkdprune.models.losses import MixSKDLoss, interpolate_pairs

ALL_ZERO = dict.fromkeys(MixSKD.loss_names, 0.0)


@pytest.fixture(autouse=True)
def scope():
    init_default_scope("mmpretrain")
    torch.manual_seed(0)


def config(backbone=None, num_classes=10, in_channels=64, plain=False, **options) -> dict:
    return {
        "type": "ImageClassifier" if plain else "mmkdprune.MixSKD",
        "backbone": backbone or {"type": "mmkdprune.CifarResNet", "depth": 20},
        "neck": {"type": "GlobalAveragePooling"},
        "head": {"type": "LinearClsHead", "num_classes": num_classes, "in_channels": in_channels},
        **options,
    }


def build(*args, **kwargs) -> MixSKD:
    return MODELS.build(config(*args, **kwargs))


def samples(*labels: int) -> list[DataSample]:
    return [DataSample().set_gt_label(label) for label in labels]


def batch(size: int = 16, number: int = 6):
    return torch.randn(number, 3, size, size), samples(*(index % 10 for index in range(number)))


# -- the authors' networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "backbone", "in_channels", "shape"),
    [
        ("mixskd_cifar_r18_10cls_relu_stem", {"type": "ResNet_CIFAR", "depth": 18}, 512, (8, 3, 32, 32)),
        (
            "mixskd_cifar_r18_10cls_official_stem",
            {"type": "mmkdprune.LinearStemResNetCIFAR", "depth": 18},
            512,
            (8, 3, 32, 32),
        ),
        ("mixskd_in_r50_10cls_64px", {"type": "ResNet", "depth": 50}, 2048, (4, 3, 64, 64)),
    ],
)
def test_golden_networks(entry, backbone, in_channels, shape):
    expected = golden("kd_nets")[entry]
    model = build({**backbone, "zero_init_residual": False}, in_channels=in_channels).double()
    parameters = expected["params"]
    assert count_parameters(model.backbone, model.head) == parameters["backbone"]
    assert count_parameters(model.branches) == parameters["branches"]
    assert count_parameters(model.self_teacher) == parameters["self_teacher"]
    assert count_parameters(model) - count_parameters(model.discriminators) == parameters["total"]

    set_shape_only_weights(model)
    model.train()
    logits, feats, pooled = model.forward_heads(det(shape, 0.0137, 0.2))
    half = shape[0] // 2
    lerped = [interpolate_pairs(rows[:half], 0.3, torch.arange(half).roll(1)) for rows in pooled]
    assert_matches_golden(logits[-1], expected["logits_all"])
    assert_matches_golden(feats[-1], expected["feat4"])
    assert_matches_golden(model.self_teacher(lerped), expected["h_lerp"])
    assert_matches_golden(model.self_teacher([rows[half:] for rows in pooled]), expected["h_mix"])
    for branch_logits in logits[:-1]:  # copies of the stages under equal weights
        torch.testing.assert_close(branch_logits, logits[-1])


# -- the deployable network --------------------------------------------------------------------------------------------


def test_deployable_network_has_the_keys_of_the_plain_twin():
    ours, plain = build(), MODELS.build(config(plain=True))
    deployable = [name for name in ours.state_dict() if name.split(".")[0] in ("backbone", "neck", "head")]
    assert deployable == list(plain.state_dict())
    others = {name.split(".")[0] for name in ours.state_dict()} - {"backbone", "neck", "head"}
    assert others == {"branches", "self_teacher", "discriminators"}


def test_a_seed_gives_the_initial_weights_of_the_plain_twin():
    models = []
    for plain in (True, False):
        torch.manual_seed(7)
        models.append(MODELS.build(config(plain=plain)))
        models[-1].init_weights()
        models[-1].after_init = torch.rand(3)
    plain, ours = models
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in plain.state_dict().items())
    assert torch.equal(plain.after_init, ours.after_init)


def test_initialising_the_model_keeps_the_branches_as_they_were_drawn():
    model = build()
    before = copy.deepcopy(model.branches.state_dict())
    model.init_weights()
    assert all(torch.equal(value, before[name]) for name, value in model.branches.state_dict().items())


def test_predict_and_tensor_modes_are_the_plain_network():
    ours, plain = build().eval(), MODELS.build(config(plain=True)).eval()
    plain.load_state_dict(ours.state_dict(), strict=False)
    images, data_samples = batch()
    assert torch.equal(ours(images, mode="tensor"), plain(images, mode="tensor"))
    theirs = plain(images, data_samples, mode="predict")
    for first, second in zip(ours(images, data_samples, mode="predict"), theirs, strict=True):
        assert torch.equal(first.pred_score, second.pred_score)
    assert torch.equal(ours.forward_heads(images)[0][-1], ours(images, mode="tensor"))


def test_all_weights_zero_trains_the_plain_twin_bit_for_bit():
    ours, plain = build(loss_weights=ALL_ZERO), MODELS.build(config(plain=True))
    assert list(ours.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(ours.state_dict())
    seen = []
    ours.backbone.conv1.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    for model in (ours, plain):
        torch.manual_seed(3)
        model.train()
        optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
        for _ in range(3):
            images, data_samples = batch()
            optimizer.update_params(model(images, data_samples, mode="loss")["loss"])
        model.random_after = torch.rand(2)
    assert seen == [6, 6, 6]
    assert torch.equal(ours.random_after, plain.random_after)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, ours.state_dict()[name]), name


# -- the step ----------------------------------------------------------------------------------------------------------


def test_one_forward_pass_of_both_halves_and_no_shared_randomness():
    model = build().train()
    seen = []
    model.backbone.conv1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    images, data_samples = batch()
    state = torch.get_rng_state()
    model(images, data_samples, mode="loss")
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(item) for item in seen] == [12]
    assert torch.equal(seen[0][:6], images)
    assert not torch.equal(seen[0][6:], images)


def test_no_host_synchronisation_in_the_step(monkeypatch):
    model = build().train()
    images, data_samples = batch()
    forbid_host_synchronisation(monkeypatch)
    losses = model(images, data_samples, mode="loss")
    sum(losses.values()).backward()


def test_channels_last_images_stay_channels_last():
    assert_images_stay_channels_last(build())


def test_terms_start_at_chance_level():
    model = build({"type": "ResNet_CIFAR", "depth": 18, "zero_init_residual": False}, 100, 512)
    model.init_weights()
    model.train()
    losses = model(torch.randn(16, 3, 32, 32), samples(*range(16)), mode="loss")
    assert losses["loss_ce"].item() == pytest.approx(4 * math.log(100), rel=0.05)
    assert losses["loss_mix_ce"].item() == pytest.approx(4 * math.log(100), rel=0.05)
    assert losses["loss_teacher_ce"].item() == pytest.approx(2 * math.log(100), rel=0.05)
    assert losses["loss_disc"].item() == pytest.approx(4 * math.log(2), rel=0.05)


def test_terms_are_those_of_the_objective_on_the_models_tensors():
    model = build(loss_weights={"loss_feat": 0.5}).train()
    images, data_samples = batch()
    weighted = copy.deepcopy(model)(images, data_samples, mode="loss")
    lam, perm = model.draw_mixup(images)
    logits, feats, _ = model.forward_heads(torch.cat([images, lam * images + (1 - lam) * images[perm]]))
    lerped = [lam * feat[:6] + (1 - lam) * feat[:6][perm] for feat in feats]
    mixed = [feat[6:] for feat in feats]
    disc_logits = [
        disc(torch.cat(pair)) for disc, pair in zip(model.discriminators, zip(lerped, mixed, strict=True), strict=True)
    ]
    target = torch.cat([sample.gt_label for sample in data_samples])
    expected = MixSKDLoss(3.0)(
        logits, feats, model.self_teacher(lerped), model.self_teacher(mixed), target, lam, perm, disc_logits
    )
    expected["loss_feat"] = 0.5 * expected["loss_feat"]
    assert list(weighted) == list(MixSKD.loss_names)
    torch.testing.assert_close(weighted, expected, rtol=1e-4, atol=1e-5)


def test_coefficient_one_leaves_nothing_to_distil(monkeypatch):
    """Spec: with batch norm in eval mode the mixed images are the originals, and so are their outputs."""
    model = build().eval()
    monkeypatch.setattr(model, "draw_mixup", lambda images: (torch.ones(()), torch.randperm(len(images))))
    losses = model(*batch(), mode="loss")
    assert losses["loss_feat"].item() == pytest.approx(0, abs=1e-10)
    assert losses["loss_kd_branches"].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(losses["loss_mix_ce"], losses["loss_ce"])


def test_gradients_reach_the_parts_they_belong_to():
    model = build().train()
    losses = model(*batch(), mode="loss")

    def touched(name, part):
        gradients = torch.autograd.grad(losses[name], tuple(part.parameters()), allow_unused=True, retain_graph=True)
        return any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)

    for name in MixSKD.loss_names:
        assert touched(name, model.self_teacher) == (name == "loss_teacher_ce"), name
        assert touched(name, model.discriminators) == (name == "loss_disc"), name
        assert touched(name, model.backbone.conv1), name
        assert touched(name, model.branches) == (name != "loss_kd_backbone"), name
        assert touched(name, model.head) == (name in ("loss_ce", "loss_mix_ce", "loss_kd_backbone")), name


def test_every_trainable_parameter_gets_a_gradient_whatever_the_weights():
    """DistributedDataParallel would hang or complain otherwise."""
    for zero in [(), *[(name,) for name in MixSKD.loss_names], MixSKD.loss_names[1:], MixSKD.loss_names[:-1]]:
        model = build(loss_weights=dict.fromkeys(zero, 0.0)).train()
        sum(model(*batch(), mode="loss").values()).backward()
        without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not without, (zero, without)


def test_overfits_a_few_images():
    model = build(num_classes=4)
    model.init_weights()
    assert_overfits(model, steps=40)


def test_same_seed_same_step():
    values = []
    for _ in range(2):
        torch.manual_seed(5)
        model = build().train()
        values.append(model(*batch(), mode="loss"))
    assert all(torch.equal(value, values[1][name]) for name, value in values[0].items())


# -- options -----------------------------------------------------------------------------------------------------------


def test_weights_of_the_authors_cifar_script_keep_the_self_teacher_random():
    model = build(loss_weights={"loss_mix_ce": 0, "loss_teacher_ce": 0}).train()
    assert not any(parameter.requires_grad for parameter in model.self_teacher.parameters())
    assert model(*batch(), mode="loss")["loss_kd_backbone"] > 0


def test_train_only_parts_take_an_init_cfg():
    model = build(self_teacher={"init_cfg": {"type": "Constant", "layer": "Linear", "val": 0.5}})
    assert (model.self_teacher.fc.weight == 0.5).all()
    model.init_weights()
    assert (model.self_teacher.fc.weight == 0.5).all()


def test_parts_without_a_term_are_not_built():
    model = build(loss_weights={"loss_teacher_ce": 0, "loss_kd_backbone": 0, "loss_disc": 0})
    assert not hasattr(model, "self_teacher")
    assert not hasattr(model, "discriminators")


def test_discriminators_can_stay_random_or_be_fooled():
    fixed = build(train_discriminator=False)
    assert not any(parameter.requires_grad for parameter in fixed.discriminators.parameters())
    images, data_samples = batch()
    plain = build().train()
    reverse = copy.deepcopy(plain)
    reverse.disc_grad_reverse = True
    gradients = []
    for model in (plain, reverse):
        loss = model(images, data_samples, mode="loss")["loss_disc"]
        gradients.append(torch.autograd.grad(loss, (model.backbone.conv1.weight, model.discriminators[0].fc1.weight)))
    torch.testing.assert_close(gradients[1][0], -gradients[0][0])
    torch.testing.assert_close(gradients[1][1], gradients[0][1])


@pytest.mark.parametrize(
    ("backbone", "in_channels", "size"),
    [
        ({"type": "ResNet_CIFAR", "depth": 18, "base_channels": 8, "stem_channels": 8}, 64, 32),
        ({"type": "ResNeXt", "depth": 50, "groups": 4, "width_per_group": 4}, 2048, 32),
        ({"type": "SEResNet", "depth": 50, "base_channels": 16, "expansion": 4}, 512, 32),
        ({"type": "ResNetV1c", "depth": 18}, 512, 32),
        ({"type": "ResNetV1d", "depth": 50, "base_channels": 16}, 512, 32),
        ({"type": "ResNet", "depth": 18, "out_indices": (0, 1, 2, 3), "frozen_stages": 1}, 512, 64),
        ({"type": "MobileNetV2"}, 1280, 64),
        ({"type": "ConvNeXt", "arch": "atto", "gap_before_final_norm": False}, 320, 64),
        ({"type": "mmkdprune.CifarResNet", "depth": "8x4"}, 256, 16),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else None,
)
def test_trains_with_many_backbones(backbone, in_channels, size):
    model = build(backbone, in_channels=in_channels).train()
    keys = [name for name in model.state_dict() if name.startswith("backbone.")]
    assert keys == [f"backbone.{name}" for name in MODELS.build(backbone).state_dict()]
    losses = model(*batch(size, 4), mode="loss")
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()


@pytest.mark.parametrize("options", [{"branch_type": "conv"}, {"branch_depth": "light"}])
def test_cheaper_branches(options):
    model = build(**options).train()
    assert count_parameters(model.branches) < count_parameters(build().branches)
    assert sum(model(*batch(), mode="loss").values()).isfinite()


def test_images_need_not_be_square():
    model = build().train()
    losses = model(torch.randn(4, 3, 16, 24), samples(0, 1, 2, 3), mode="loss")
    assert sum(losses.values()).isfinite()


def test_one_line_on_a_stock_config():
    stock = get_config("mmpretrain::resnet/resnet18_8xb32_in1k.py")
    stock.model.type = "mmkdprune.MixSKD"
    model = MODELS.build(stock.model)
    assert isinstance(model, MixSKD)
    assert isinstance(model, ImageClassifier)
    assert model.num_classes == 1000


def test_all_that_a_stock_config_must_change_is_said_at_once():
    stock = get_config("mmpretrain::convnext/convnext-tiny_32xb128_in1k.py")
    stock.model |= {"type": "mmkdprune.MixSKD", "backbone": {"type": "ConvNeXt", "arch": "atto"}}
    with pytest.raises(ValueError, match=r"set model\.train_cfg=None .*\n.*set model\.head\.loss=dict\(_delete_=True"):
        MODELS.build(stock.model)


def test_copies_are_independent():
    """EMAHook trains on with a copy of the model."""
    model = build().train()
    duplicate = copy.deepcopy(model)
    images, data_samples = batch()
    first, second = (item(images, data_samples, mode="loss") for item in (model, duplicate))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with torch.no_grad():
        duplicate.backbone.conv1.weight.zero_()
    assert model.backbone.conv1.weight.abs().max() > 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_agrees_with_float32(dtype):
    model = build().cuda().train()
    images, data_samples = batch()
    images, data_samples = images.cuda(), [sample.cuda() for sample in data_samples]
    reference = copy.deepcopy(model)(images, data_samples, mode="loss")
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.autocast("cuda", dtype):
            losses = model(images, data_samples, mode="loss")
        sum(losses.values()).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(value.dtype == torch.float32 for value in losses.values())
    torch.testing.assert_close(losses, reference, rtol=0.05, atol=0.02)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_weights": {"loss_feats": 1}}, r"unknown name\(s\) \['loss_feats'\]; known"),
        ({"loss_weights": {"loss_feat": -1}}, "finite numbers of 0 or more, got {'loss_feat': -1}"),
        ({"loss_weights": {"loss_feat": float("inf")}}, "finite numbers of 0 or more, got {'loss_feat': inf}"),
        ({"loss_weights": 1.0}, "loss_weights must be a dict .* got 1.0"),
        ({"alpha": 0}, "alpha must be a positive number .* got 0"),
        ({"alpha": "much"}, "alpha must be a number, got 'much'"),
        ({"self_teacher": {"num_classes": 5}}, r"self_teacher must not set \['num_classes'\]"),
        ({"discriminator": {"in_channels": 5}}, r"discriminator must not set \['in_channels'\]"),
        ({"data_preprocessor": {"num_classes": 10, "to_onehot": True}}, "set data_preprocessor.to_onehot=False"),
        (
            {"head": {"type": "ArcFaceClsHead", "num_classes": 10, "in_channels": 64}},
            "ArcFaceClsHead has a loss of its",
        ),
        ({"head": {"type": "LinearClsHead", "num_classes": 10, "in_channels": 64, "cal_acc": True}}, "cal_acc=False"),
        ({"branch_type": "stages"}, "branch_type must be one of"),
        ({"branch_depth": "deep"}, "branch_depth must be one of"),
        ({"loss": {"temperature": -3.0}}, "temperature must be a positive number"),
        ({"train_cfg": {"augments": {"type": "Mixup", "alpha": 0.2}}}, r"batch augments .* set model.train_cfg=None"),
        (
            {
                "head": {
                    "type": "LinearClsHead",
                    "num_classes": 10,
                    "in_channels": 64,
                    "loss": {"type": "LabelSmoothLoss", "label_smooth_val": 0.1, "num_classes": 10},
                }
            },
            r"head.loss=LabelSmoothLoss.*model.head.loss=dict\(_delete_=True, type='CrossEntropyLoss'\)",
        ),
        ({"head": {"type": "ClsHead"}}, "neither head ClsHead nor backbone CifarResNet has a classifier"),
        ({"head": None}, "needs a classification head"),
        ({"backbone": {"type": "VisionTransformer", "arch": "deit-tiny"}}, "at least two"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MODELS.build({**config(), **options})


def test_clashes_do_not_matter_to_the_plain_step():
    assert build().min_batch_size == 2
    assert build(loss_weights=ALL_ZERO).min_batch_size == 1
    build(loss_weights=ALL_ZERO, train_cfg={"augments": {"type": "Mixup", "alpha": 0.2}})


@pytest.mark.parametrize(
    ("images", "data_samples", "message"),
    [
        (torch.randn(1, 3, 16, 16), samples(1), "batch holds 1 image.*drop_last=True"),
        (torch.randn(4, 3, 2, 2), samples(0, 1, 2, 3), "2x2 px are too small for CifarResNet"),
        (torch.randn(2, 3, 16, 16), [DataSample().set_gt_score(torch.ones(10) / 10)] * 2, "soft targets"),
        (torch.randn(2, 3, 16, 16), [DataSample().set_gt_label([1, 2])] * 2, "multi-label"),
        (torch.randn(2, 3, 16, 16), [DataSample()] * 2, "needs one class label an image .* got none"),
    ],
)
def test_bad_batches(images, data_samples, message):
    with pytest.raises(ValueError, match=message):
        build().train()(images, data_samples, mode="loss")
