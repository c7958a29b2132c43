"""The teacher's place beside a student: seen by nothing that trains, moved and loaded with it."""

import copy

import pytest
import torch
from mmengine.config import Config
from testing_helpers import batch, build_model, network, save_weights

from mmkdprune.models.algorithms.teacher import FrozenTeacher, TeacherError

STUDENTS = ("mmkdprune.HSAKD", "mmkdprune.KnowledgeDistillation")
students = pytest.mark.parametrize("type_name", STUDENTS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> str:
    """Checkpoint of a teacher with branches."""
    torch.manual_seed(1)
    teacher = build_model("mmkdprune.HSAKD", phase="teacher", **network(20))
    teacher.init_weights()
    return save_weights(teacher, tmp_path_factory.mktemp("teacher") / "teacher.pth")


def student_of(checkpoint: str, type_name: str = STUDENTS[0], depth=8, **options):
    settings = {**network(20), "checkpoint": checkpoint, **options.pop("teacher", {})}
    return build_model(type_name, teacher=settings, **{**network(depth), **options})


@students
def test_stays_out_of_parameters_buffers_checkpoint_copies_and_training_mode(trained, type_name):
    model = student_of(trained, type_name)
    model.init_weights()
    model.train()
    teacher = model.teacher.network
    ids = {id(item) for item in (*teacher.parameters(), *teacher.buffers())}
    assert not ids & {id(item) for item in (*model.parameters(), *model.buffers())}
    assert "teacher" not in {name.split(".")[0] for name in model.state_dict()}
    assert not any(module is teacher for module in model.modules())
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert copy.deepcopy(model).teacher is model.teacher
    assert all(parameter.requires_grad for parameter in model.parameters())


@students
def test_keeps_no_activations_and_does_not_change(trained, type_name):
    model = student_of(trained, type_name)
    model.init_weights()
    model.train()
    before = {name: value.clone() for name, value in model.teacher.network.state_dict().items()}
    stored, seen = [], []
    model.teacher.network.head.register_forward_hook(lambda module, args, output: seen.append(output))
    images, data_samples = batch()
    with torch.autograd.graph.saved_tensors_hooks(lambda item: stored.append(item) or item, lambda item: item):
        model.teacher.run(model.teacher.network.deployable_logits, images)
    assert stored == []  # nothing of its forward pass is kept for a backward pass
    losses = model(images, data_samples, mode="loss")
    assert all(output.is_inference() and output.grad_fn is None for output in seen)
    sum(losses.values()).backward()
    assert all(torch.equal(value, before[name]) for name, value in model.teacher.network.state_dict().items())


@students
def test_follows_the_student(trained, type_name):
    model = student_of(trained, type_name).to(torch.float64).to(memory_format=torch.channels_last)
    weight = model.teacher.network.backbone.layer1[0].conv1.weight
    assert weight.dtype == torch.float64
    assert weight.is_contiguous(memory_format=torch.channels_last)


@students
def test_building_it_draws_from_a_stream_of_its_own(trained, type_name):
    torch.manual_seed(3)
    plain = build_model("ImageClassifier", **network(8))
    after_plain = torch.rand(1)
    torch.manual_seed(3)
    model = student_of(trained, type_name)
    assert torch.equal(torch.rand(1), after_plain)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())


def test_config_file_and_inline_are_the_same_teacher(trained, tmp_path):
    config = tmp_path / "teacher.py"
    Config({"model": {"type": "mmkdprune.HSAKD", "phase": "teacher", **network(20)}}).dump(config)
    images, data_samples = batch()
    losses = []
    for settings in ({"config": str(config), "checkpoint": trained}, {**network(20), "checkpoint": trained}):
        torch.manual_seed(0)
        model = build_model("mmkdprune.HSAKD", teacher=settings, **network(8))
        model.init_weights()
        losses.append(model.train()(images, data_samples, mode="loss"))
    assert all(torch.equal(value, losses[1][name]) for name, value in losses[0].items())


def test_precision():
    teacher = FrozenTeacher(build_model("ImageClassifier", **network(8)), "", precision="bf16")
    teacher.is_loaded = True
    images, _ = batch()
    assert teacher.run(lambda x: teacher.network(x), images).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.functional.linear(images, torch.ones(2, 16)).dtype == torch.bfloat16
        for precision, expected in (("fp32", torch.float32), (None, torch.bfloat16)):
            teacher.precision = precision
            assert teacher.run(lambda x: teacher.network(x), images).dtype == expected


def test_is_loaded_before_it_teaches(trained):
    model = student_of(trained).train()
    with pytest.raises(TeacherError, match=r"not loaded: call init_weights\(\)"):
        model(*batch(), mode="loss")


@students
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (None, r"needs teacher=dict\(config="),
        ({}, r"teacher must be dict\(config="),
        ("a.pth", "teacher must be (a )?dict.*got 'a.pth'"),
        ({**network(20), "config": "a.py", "checkpoint": "a.pth"}, "teacher must be dict"),
        (network(20), "checkpoint must be the file of a trained teacher, got None"),
        ({**network(20, num_classes=7), "checkpoint": "a.pth"}, r"CifarResNet-20\) has 7 classes.*CifarResNet-8\) 10"),
        ({**network(20), "checkpoint": "a.pth", "precision": "int8"}, "precision must be one of .* got 'int8'"),
    ],
)
def test_bad_settings(type_name, settings, message):
    with pytest.raises(ValueError, match=message):
        build_model(type_name, teacher=settings, **network(8))


@students
def test_bad_files(type_name, trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"teacher.checkpoint: there is no file absent.pth.*train_pipeline"):
        student_of("absent.pth", type_name).init_weights()
    other = torch.nn.Linear(2, 2)
    with pytest.raises(TeacherError, match=r"not a classifier of this package or of MMPretrain.*Nothing of"):
        student_of(save_weights(other, tmp_path / "other.pth"), type_name).init_weights()
    torch.save({"state_dict": {}, "model": type_name.__class__, "unsafe": copy.copy(Config())}, tmp_path / "unsafe.pth")
    with pytest.raises(RuntimeError, match="is not loaded: besides tensors"):
        student_of(str(tmp_path / "unsafe.pth"), type_name).init_weights()
    state = torch.load(trained, weights_only=True)["state_dict"]
    backbone = {key: value for key, value in state.items() if key.startswith(("backbone.", "branches."))}
    torch.save({"state_dict": backbone}, tmp_path / "backbone.pth")
    with pytest.raises(TeacherError, match=r"2 missing \(head.fc.weight.*head would stay random.*whole classifier"):
        student_of(str(tmp_path / "backbone.pth"), type_name).init_weights()


def test_a_plain_classifier_has_no_branches_to_learn_from(tmp_path):
    plain = save_weights(build_model("ImageClassifier", **network(20)), tmp_path / "plain.pth")
    with pytest.raises(TeacherError, match=r"branches would stay random.*phase='teacher'"):
        student_of(plain).init_weights()
    student_of(plain, "mmkdprune.KnowledgeDistillation").init_weights()


def test_a_teachers_config_must_have_trained_a_teacher(tmp_path, trained):
    config = tmp_path / "plain.py"
    Config({"model": {"type": "ImageClassifier", **network(20)}}).dump(config)
    with pytest.raises(ValueError, match=r"must be a config with model.type='mmkdprune.HSAKD'.*no branches"):
        build_model("mmkdprune.HSAKD", teacher={"config": str(config), "checkpoint": trained}, **network(8))
    settings = {"config": str(config), "checkpoint": trained, "head": {}}
    with pytest.raises(ValueError, match=r"also sets \['head'\]: change them in that config"):
        build_model("mmkdprune.HSAKD", teacher=settings, **network(8))
    with pytest.raises(ValueError, match=r"unknown field\(s\) \['temperature'\]"):
        student_of(trained, teacher={"temperature": 4})


NORMALISATION = {"mean": [1.0, 2, 3], "std": [1.0, 1, 1], "to_rgb": False}


@pytest.mark.parametrize(
    "other", [{**NORMALISATION, "mean": [0, 0, 0]}, {**NORMALISATION, "to_rgb": True}, {"to_rgb": False}]
)
def test_images_must_be_normalised_alike(tmp_path, trained, other):
    model = {"type": "mmkdprune.HSAKD", "phase": "teacher", **network(20)}
    settings = {"config": str(tmp_path / "teacher.py"), "checkpoint": trained}
    for theirs, ours in ((NORMALISATION, other), (other, NORMALISATION)):
        Config({"model": model, "data_preprocessor": theirs}).dump(settings["config"])
        build_model("mmkdprune.HSAKD", teacher=settings, data_preprocessor=theirs, **network(8)).init_weights()
        student = build_model("mmkdprune.HSAKD", teacher=settings, data_preprocessor=ours, **network(8))
        with pytest.raises(TeacherError, match=r"trained on images with {'to_rgb'.*set the same data_preprocessor"):
            student.init_weights()


def test_a_teacher_of_another_scope_and_of_an_online_run(tmp_path, trained):
    backbone = {"type": "CifarResNet", "depth": 20}
    model = {"type": "OnlineHSSAKD", **network(20, backbone=backbone, neck={"type": "mmpretrain.GlobalAveragePooling"})}
    model["head"] |= {"type": "mmpretrain.LinearClsHead", "loss": {"type": "mmpretrain.CrossEntropyLoss"}}
    Config({"default_scope": "mmkdprune", "model": model}).dump(tmp_path / "teacher.py")
    settings = {"config": str(tmp_path / "teacher.py"), "checkpoint": trained}
    student = build_model("mmkdprune.HSAKD", teacher=settings, **network(8))
    student.init_weights()
    assert student.teacher.is_loaded


def test_a_deeper_network_is_not_taken_for_the_teacher(trained):
    with pytest.raises(TeacherError, match=r"of another network: it also holds backbone.layer1.1.conv1.weight.*depth"):
        student_of(trained, teacher=network(8)).init_weights()


def test_an_absent_config_is_named(trained):
    with pytest.raises(
        FileNotFoundError, match=r"HSAKD: teacher.config: there is no config absent.py in .*relative to"
    ):
        build_model("mmkdprune.HSAKD", teacher={"config": "absent.py", "checkpoint": trained}, **network(8))


def test_any_loss_may_keep_what_the_teacher_says(trained):
    model = student_of(trained)
    model.init_weights()
    images, _ = batch()
    logits, joint_logits = model.teacher.run(model.teacher.network.forward_joint, images)
    assert not logits.is_inference()
    torch.nn.functional.mse_loss(model.deployable_logits(images), logits).backward()
    assert len(joint_logits) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_moves_to_the_device_with_the_student(trained):
    model = student_of(trained).cuda()
    assert next(model.teacher.network.parameters()).is_cuda
    model.init_weights()
    assert next(model.teacher.network.parameters()).is_cuda
