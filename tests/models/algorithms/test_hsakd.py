import copy
import math

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmpretrain.models.classifiers import ImageClassifier
from testing_helpers import (
    assert_equal_states,
    assert_images_stay_channels_last,
    assert_matches_golden,
    assert_overfits,
    batch,
    build_model,
    count_parameters,
    det,
    forbid_host_synchronisation,
    golden,
    network,
    samples,
    save_weights,
    set_shape_only_weights,
    trained_state,
)

from mmkdprune.models.algorithms import HSAKD
from mmkdprune.models.losses import HSAKDStudentLoss, HSAKDTeacherLoss
from mmkdprune.models.utils import rotate4

TEACHER_TERMS, STUDENT_TERMS = ("loss_ce", "loss_joint_ce"), ("loss_ce", "loss_kd", "loss_joint_kd")
RESNET = {"zero_init_residual": False}


def teacher_of(depth=20, num_classes=10, **options) -> HSAKD:
    return build_model("mmkdprune.HSAKD", phase="teacher", **{**network(depth, num_classes), **options})


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    torch.manual_seed(1)
    model = teacher_of()
    model.init_weights()
    return save_weights(model, tmp_path_factory.mktemp("hsakd") / "teacher.pth")


def student_of(checkpoint: str, depth=8, teacher=None, **options) -> HSAKD:
    teacher = {**(network(20) if teacher is None else teacher), "checkpoint": checkpoint}
    model = build_model("mmkdprune.HSAKD", teacher=teacher, **{**network(depth), **options})
    model.init_weights()
    return model.train()


@pytest.fixture
def plain_checkpoint(tmp_path) -> str:
    plain = build_model("ImageClassifier", **network(20))
    plain.init_weights()
    plain.train()(torch.randn(16, 3, 16, 16))  # running statistics of their own
    return save_weights(plain, tmp_path / "plain.pth")


# -- the authors' networks ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "backbone", "channels", "size", "branches_of_the_paper"),
    [
        ("resnet20_aux", {"type": "mmkdprune.CifarResNet", "depth": 20}, 64, 32, 762_992),
        ("resnet56_aux", {"type": "mmkdprune.CifarResNet", "depth": 56}, 64, 32, 2_206_064),
        ("resnet8x4_aux", {"type": "mmkdprune.CifarResNet", "depth": "8x4"}, 256, 32, 3_557_296),
        ("resnet32x4_aux", {"type": "mmkdprune.CifarResNet", "depth": "32x4"}, 256, 32, 18_907_056),
        ("ResNet50_aux", {"type": "ResNet_CIFAR", "depth": 50, **RESNET}, 2048, 32, 76_976_704),
        ("resnet18_imagenet_aux", {"type": "ResNet", "depth": 18, **RESNET}, 512, 64, 47_555_456),
        ("resnet34_imagenet_aux", {"type": "ResNet", "depth": 34, **RESNET}, 512, 64, 76_474_240),
        ("wrn_16_2_aux", {"type": "mmkdprune.CifarWideResNet", "depth": 16, "widen_factor": 2}, 128, 32, 1_928_304),
    ],
)
def test_golden_networks(entry, backbone, channels, size, branches_of_the_paper):
    expected = golden("kd_nets")[f"hsakd_{entry}"]
    head = {"type": "LinearClsHead", "num_classes": 10, "in_channels": channels}
    model = teacher_of(backbone=backbone, head=head).double()
    assert count_parameters(model.backbone, model.head) == expected["params_backbone"]
    assert count_parameters(model.branches) == expected["params_aux"]
    classes = 1000 if "imagenet" in entry else 100
    more = len(model.branches) * 4 * (classes - 10) * (channels + 1)
    assert count_parameters(model.branches) + more == branches_of_the_paper
    set_shape_only_weights(model)
    model.train()
    images = det((4, 3, size, size), 0.0137, 0.2)
    # Under these weights deep networks blow rounding errors up, up to 1e13 times in the last branch of ResNet-34, so
    # that the authors' own arithmetic is only known to that: an error of rounding size in the images shows how far.
    rounding = 1 + 1e-15 * torch.randn(images.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    runs = [[logits, *joint] for logits, joint in map(model.forward_joint, (images, images * rounding))]
    golden_heads = [expected["logits"], *expected["q"]]
    for index, (own, other, theirs) in enumerate(zip(*runs, golden_heads, strict=True)):
        noise = (own - other).abs().max().item()
        assert noise < 1e-3 or index == len(golden_heads) - 1
        assert_matches_golden(own, theirs, atol=2e-6 + 20 * noise)


def test_copied_weights_reproduce_the_deployable_network():
    model = teacher_of().double().train()
    stages = model.stage_protocol.stages(model.backbone)
    for index, branch in enumerate(model.branches[:-1], start=1):
        for own, theirs in zip(branch.stages, stages[index:], strict=True):
            own.load_state_dict(theirs.state_dict())
        with torch.no_grad():
            branch.fc.weight[:10] = model.head.fc.weight
            branch.fc.bias[:10] = model.head.fc.bias
    logits, joint_logits = model.forward_joint(torch.randn(8, 3, 16, 16, dtype=torch.float64))
    for own in joint_logits[:-1]:
        torch.testing.assert_close(own[:, :10], logits)


# -- the deployable network --------------------------------------------------------------------------------------------


def test_deployable_network_has_the_keys_of_the_plain_twin(checkpoint):
    plain = build_model("ImageClassifier", **network(8))
    for model in (teacher_of(8), student_of(checkpoint)):
        assert isinstance(model, ImageClassifier)
        deployable = [name for name in model.state_dict() if not name.startswith("branches.")]
        assert deployable == list(plain.state_dict())
        model.eval()
        seen = []
        model.branches[0].register_forward_hook(lambda *args, seen=seen: seen.append(1))
        images, data_samples = batch()
        model(images, data_samples, mode="predict")
        model(images, mode="tensor")
        assert not seen


@pytest.mark.parametrize("phase", ["teacher", "student"])
def test_all_weights_zero_train_the_plain_network(phase, checkpoint):
    terms = TEACHER_TERMS if phase == "teacher" else STUDENT_TERMS
    options = {"phase": phase, "loss_weights": dict.fromkeys(terms, 0.0)}
    if phase == "student":
        options["teacher"] = {**network(20), "checkpoint": checkpoint}
    ours = trained_state("mmkdprune.HSAKD", **network(8), **options)
    assert_equal_states(ours, trained_state("ImageClassifier", **network(8)))


def test_train_only_parts_leave_the_plain_twins_weights(checkpoint):
    torch.manual_seed(5)
    plain = build_model("ImageClassifier", **network(8))
    plain.init_weights()
    for phase in ({"phase": "teacher"}, {"teacher": {**network(20), "checkpoint": checkpoint}}):
        torch.manual_seed(5)
        model = build_model("mmkdprune.HSAKD", **phase, **network(8))
        model.init_weights()
        assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())


# -- the step ----------------------------------------------------------------------------------------------------------


def test_terms_are_those_of_the_objective_on_the_models_tensors(checkpoint):
    images, data_samples = batch()
    target = torch.arange(6)
    teacher = teacher_of(loss_weights={"loss_joint_ce": 0.5}).train()
    expected = HSAKDTeacherLoss()(*copy.deepcopy(teacher).forward_joint(rotate4(images)), target)
    expected["loss_joint_ce"] = 0.5 * expected["loss_joint_ce"]
    losses = teacher(images, data_samples, mode="loss")
    assert list(losses) == list(TEACHER_TERMS)
    torch.testing.assert_close(losses, expected)
    student = student_of(checkpoint, loss={"temperature": 2.0})
    with torch.no_grad():
        taught = student.teacher.network.forward_joint(rotate4(images))
    expected = HSAKDStudentLoss(2.0)(*copy.deepcopy(student).forward_joint(rotate4(images)), *taught, target)
    losses = student(images, data_samples, mode="loss")
    assert list(losses) == list(STUDENT_TERMS)
    torch.testing.assert_close(losses, expected)


def test_one_forward_pass_of_four_rotations(checkpoint):
    model = student_of(checkpoint)
    seen = {"student": [], "teacher": []}
    for name, part in (("student", model), ("teacher", model.teacher.network)):
        part.backbone.conv1.register_forward_pre_hook(lambda module, args, name=name: seen[name].append(args[0]))
    images, data_samples = batch()
    state = torch.get_rng_state()
    model(images, data_samples, mode="loss")
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(item) for item in (*seen["student"], *seen["teacher"])] == [24, 24]
    assert torch.equal(seen["student"][0][::4], images)


@pytest.mark.parametrize("phase", ["teacher", "student"])
def test_no_host_synchronisation_in_the_step(phase, checkpoint, monkeypatch):
    model = teacher_of().train() if phase == "teacher" else student_of(checkpoint)
    images, data_samples = batch()
    forbid_host_synchronisation(monkeypatch)
    sum(model(images, data_samples, mode="loss").values()).backward()


def test_channels_last_images_stay_channels_last():
    assert_images_stay_channels_last(teacher_of())


def test_terms_start_at_chance_level():
    head = {"type": "LinearClsHead", "num_classes": 100, "in_channels": 128}
    backbone = {"type": "mmkdprune.CifarWideResNet", "depth": 16, "widen_factor": 2}
    model = teacher_of(backbone=backbone, head=head)
    model.init_weights()
    losses = model.train()(torch.randn(16, 3, 32, 32), samples(*range(16)), mode="loss")
    assert losses["loss_ce"].item() == pytest.approx(math.log(100), rel=0.05)
    assert losses["loss_joint_ce"].item() == pytest.approx(3 * math.log(400), rel=0.05)


def test_gradients_reach_the_parts_they_belong_to(checkpoint):
    def touched(losses, name, part):
        gradients = torch.autograd.grad(losses[name], tuple(part.parameters()), allow_unused=True, retain_graph=True)
        return any(gradient is not None and gradient.abs().max() > 0 for gradient in gradients)

    joint = {"loss_joint_ce", "loss_joint_kd"}
    for model in (teacher_of().train(), student_of(checkpoint)):
        losses = model(*batch(), mode="loss")
        for name in model.loss_names:
            assert touched(losses, name, model.backbone.conv1), name  # joint terms teach the backbone, too
            assert touched(losses, name, model.branches) == (name in joint), name
            assert touched(losses, name, model.head) == (name not in joint), name


def test_every_trainable_parameter_gets_a_gradient_whatever_the_weights(checkpoint, plain_checkpoint):
    """DistributedDataParallel would hang or complain otherwise."""
    models = [teacher_of(loss_weights={name: 0}) for name in TEACHER_TERMS] + [teacher_of()]
    models += [student_of(checkpoint, loss_weights={name: 0}) for name in STUDENT_TERMS]
    models += [student_of(checkpoint, loss_weights={"loss_kd": 0, "loss_joint_kd": 0}), student_of(checkpoint)]
    models += [teacher_of(teacher_mode="frozen", pretrained=plain_checkpoint)]
    for model in models:
        sum(model.train()(*batch(), mode="loss").values()).backward()
        without = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
        assert not without, (model.loss_weights, without)


def test_parts_without_a_term_are_not_built(checkpoint):
    assert not hasattr(teacher_of(loss_weights={"loss_joint_ce": 0}), "branches")
    student = student_of(checkpoint, loss_weights={"loss_joint_kd": 0})
    assert not hasattr(student, "branches")
    assert not hasattr(student.teacher.network, "branches")
    assert student_of(checkpoint, loss_weights={"loss_kd": 0, "loss_joint_kd": 0}).teacher is None


def test_a_student_like_its_teacher_has_nothing_to_distil(checkpoint):
    model = student_of(checkpoint, depth=20)
    model.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    losses = model.eval()(*batch(), mode="loss")
    assert losses["loss_kd"] == losses["loss_joint_kd"] == 0


def test_overfits_a_few_images():
    model = teacher_of(8, num_classes=4)
    model.init_weights()
    images = assert_overfits(model, steps=50)
    scores = model.train_only_accuracy(images, torch.arange(16) % 4)
    assert list(scores) == [f"branch{index}/{kind}_top1" for index in (1, 2, 3) for kind in ("joint", "class")]
    assert scores["branch3/joint_top1"].shape == (16,)
    assert scores["branch3/joint_top1"].mean() > 0.8
    assert scores["branch3/class_top1"].mean() > 0.8


# -- frozen teachers ---------------------------------------------------------------------------------------------------


def test_frozen_mode_trains_the_branches_only(plain_checkpoint):
    model = teacher_of(teacher_mode="frozen", pretrained=plain_checkpoint)
    model.init_weights()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = torch.load(plain_checkpoint, weights_only=True)["state_dict"]
    assert all(torch.equal(before[name], value) for name, value in expected.items())
    optimizer = OptimWrapper(torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1))
    for _ in range(2):
        model.train()
        optimizer.update_params(sum(model(*batch(), mode="loss").values()))
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("branches.")), name
    assert not any(module.training for module in model.backbone.modules())
    assert all(module.training for module in model.branches.modules())


def test_frozen_mode_keeps_no_activations_of_the_backbone(plain_checkpoint):
    model = teacher_of(teacher_mode="frozen", pretrained=plain_checkpoint).train()
    logits, _ = model.forward_joint(torch.randn(4, 3, 16, 16), frozen=True)
    assert logits.grad_fn is None


def test_pretrained_needs_the_head_too(plain_checkpoint, tmp_path):
    state = torch.load(plain_checkpoint, weights_only=True)["state_dict"]
    backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    torch.save({"state_dict": backbone}, tmp_path / "backbone.pth")
    model = teacher_of(teacher_mode="frozen", pretrained=str(tmp_path / "backbone.pth"))
    with pytest.raises(ValueError, match=r"pretrained: .*head would stay random"):
        model.init_weights()


def test_pretrained_is_looked_for_before_training_but_not_to_resume():
    model = teacher_of(teacher_mode="frozen", pretrained="absent.pth")
    with pytest.raises(FileNotFoundError, match=r"pretrained: there is no file absent.pth"):
        model.prepare_training(resume=False)
    model.prepare_training(resume=True)
    model.init_weights()  # what the checkpoint holds comes after it


# -- options and backbones ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ({"type": "mmkdprune.CifarMobileNetV2"}, 1280),
        ({"type": "mmkdprune.CifarShuffleNetV2", "widen_factor": 0.5}, 1024),
        ({"type": "SEResNet", "depth": 50, "base_channels": 16, "expansion": 4}, 512),
        ({"type": "ResNeXt", "depth": 50, "groups": 4, "width_per_group": 4}, 2048),
        ({"type": "MobileNetV2"}, 1280),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else None,
)
def test_trains_with_many_backbones(backbone, channels):
    head = {"type": "LinearClsHead", "num_classes": 10, "in_channels": channels}
    model = teacher_of(backbone=backbone, head=head).train()
    total = sum(model(*batch(32, 4), mode="loss").values())
    total.backward()
    assert total.isfinite()


@pytest.mark.parametrize("options", [{"branch_type": "conv"}, {"branch_depth": "light"}])
def test_cheaper_branches(options):
    assert count_parameters(teacher_of(**options).branches) < count_parameters(teacher_of().branches)


def test_other_images_than_squares_are_not_scored():
    assert teacher_of().train_only_accuracy(torch.randn(2, 3, 16, 24), torch.arange(2)) == {}
    assert teacher_of(evaluate_branches=False).train_only_accuracy(torch.randn(2, 3, 16, 16), torch.arange(2)) == {}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mixed_precision_agrees_with_float32(dtype, checkpoint):
    images, data_samples = batch()
    images, data_samples = images.cuda(), [sample.cuda() for sample in data_samples]
    for model in (teacher_of(), student_of(checkpoint)):
        model = model.cuda().train()
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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_memory_of_a_step_without_the_teachers_activations(checkpoint):
    def peak(model):
        model = model.cuda().train()
        images, data_samples = batch(32, 64)
        images, data_samples = images.cuda(), [sample.cuda() for sample in data_samples]
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        sum(model(images, data_samples, mode="loss").values()).backward()
        return torch.cuda.max_memory_allocated() - before

    alone = peak(teacher_of(8))
    assert peak(student_of(checkpoint)) < 1.3 * alone


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "both"}, "phase must be one of .* got 'both'"),
        ({"phase": "student"}, r"phase='student' needs teacher=dict"),
        ({"phase": "teacher", "teacher": {"checkpoint": "a.pth"}}, "takes none: leave teacher out"),
        ({"teacher_mode": "half"}, "teacher_mode must be one of .* got 'half'"),
        ({"teacher_mode": "frozen"}, "set pretrained to the checkpoint of the plain classifier"),
        ({"pretrained": {"config": "a.py"}}, r"pretrained must be a file or dict\(config="),
        ({"teacher_mode": "frozen", "pretrained": "a", "loss_weights": {"loss_joint_ce": 0}}, "must not be 0"),
        ({"loss_weights": {"loss_kd": 1}}, r"unknown name\(s\) \['loss_kd'\]; known: \['loss_ce', 'loss_joint_ce'\]"),
        ({"branch_type": "stages"}, "branch_type must be one of"),
        ({"loss": {"type": "mmkdprune.HSAKDStudentLoss", "temperature": 0}}, "temperature must be a positive number"),
        ({"head": {"type": "ClsHead"}}, "neither head ClsHead nor backbone CifarResNet has a classifier"),
        ({"train_cfg": {"augments": {"type": "Mixup", "alpha": 0.2}}}, r"batch augments .* set model.train_cfg=None"),
        ({"backbone": {"type": "VisionTransformer", "arch": "deit-tiny"}}, "at least two"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        teacher_of(**options) if "phase" not in options else build_model("mmkdprune.HSAKD", **network(20), **options)


def test_numbers_of_stages_must_agree(checkpoint):
    backbone = {"type": "mmkdprune.CifarMobileNetV2"}
    head = {"type": "LinearClsHead", "num_classes": 10, "in_channels": 1280}
    with pytest.raises(ValueError, match=r"CifarResNet-20\) has 3 stages and the student \(CifarMobileNetV2\) 4"):
        student_of(checkpoint, backbone=backbone, head=head)
    student_of(checkpoint, backbone=backbone, head=head, loss_weights={"loss_joint_kd": 0})


@pytest.mark.parametrize(
    ("images", "data_samples", "message"),
    [
        (torch.randn(2, 3, 16, 24), samples(0, 1), r"square images .* got \(2, 3, 16, 24\)"),
        (torch.randn(2, 3, 16, 16), samples(0, 10), r"outside 0 ... 9, the range of 10 classes: got \[10\]"),
    ],
)
def test_bad_batches(images, data_samples, message, checkpoint):
    for model in (teacher_of().train(), student_of(checkpoint)):
        with pytest.raises(ValueError, match=message):
            model(images, data_samples, mode="loss")


def test_plain_teacher_teaches_its_last_logits(plain_checkpoint, tmp_path):
    config = tmp_path / "plain.py"
    config.write_text(f"default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier', **{network(20)!r})\n")

    def build(**weights):
        model = build_model(
            "mmkdprune.HSAKD",
            teacher={"config": str(config), "checkpoint": plain_checkpoint},
            loss_weights=weights,
            **network(8),
        )
        model.init_weights()
        return model.train()

    losses = build(loss_joint_kd=0)(*batch(), mode="loss")
    assert set(losses) == {"loss_ce", "loss_kd"}
    assert losses["loss_kd"] > 0
    with pytest.raises(ValueError, match=r"no branches to learn from.*loss_weights=dict\(loss_joint_kd=0\)"):
        build()
