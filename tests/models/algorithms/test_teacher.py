"""The teacher's place beside a student: seen by nothing that trains, moved and loaded with it."""

import copy
from types import SimpleNamespace

import pytest
import torch
from labelled_sets import build, folder_set
from mmengine.config import Config
from testing_helpers import batch, build_model, network, save_weights

from mmkdprune.engine.hooks import CheckTeacherHook
from mmkdprune.models.algorithms.teacher import FrozenTeacher, TeacherError
from mmkdprune.models.algorithms.teacher_data import TeacherDataError

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
    with pytest.raises(FileNotFoundError, match=r"teacher.checkpoint: there is no file absent.pth.*mmkdprune pipeline"):
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


@pytest.mark.parametrize("other", [{**NORMALISATION, "mean": [0, 0, 0]}, {"to_rgb": False}])
@pytest.mark.parametrize("form", ["config", "inline"])
def test_images_must_be_normalised_alike(tmp_path, trained, other, form):
    """By the teacher's config, or by what its checkpoint tells, which counts more."""
    model = {"type": "mmkdprune.HSAKD", "phase": "teacher", **network(20)}
    file = str(tmp_path / "teacher.pth")
    for theirs, ours in ((NORMALISATION, other), (other, NORMALISATION)):
        settings = {**network(20), "checkpoint": file}
        content = torch.load(trained, weights_only=True)
        if form == "config":
            settings = {"config": str(tmp_path / "teacher.py"), "checkpoint": file}
            Config({"model": model, "data_preprocessor": theirs}).dump(settings["config"])
        else:
            content["meta"] = {"cfg": Config({"model": model, "data_preprocessor": theirs}).pretty_text}
        torch.save(content, file)

        def student(preprocessor, settings=settings, **options):
            teacher = {**settings, **options}
            build_model("mmkdprune.HSAKD", teacher=teacher, data_preprocessor=preprocessor, **network(8)).init_weights()

        student(theirs)
        source = "config" if form == "config" else "checkpoint"
        with pytest.raises(TeacherDataError, match=rf"with other mean.* \(its {source}\).*allow_other_images=True"):
            student(ours)
        student(ours, allow_other_images=True)


def checkpoint_of(trained, path, pipeline, to_rgb=False, classes=None):
    """A teacher's checkpoint that tells on which images and classes it was trained."""
    model = {"type": "mmkdprune.HSAKD", "phase": "teacher", **network(20)}
    data = {"data_preprocessor": {**NORMALISATION, "to_rgb": to_rgb}}
    data["train_dataloader"] = {"dataset": {"type": "CustomDataset", "pipeline": pipeline}}
    content = torch.load(trained, weights_only=True)
    content["meta"] = {"cfg": Config({"model": model, **data}).pretty_text, "dataset_meta": {"classes": classes}}
    torch.save(content, path)
    return str(path)


FILES, ARRAYS = [{"type": "LoadImageFromFile"}, {"type": "PackInputs"}], [{"type": "PackInputs"}]


def train_with(model, dataset):
    """Call the hook as a run does; returns nothing, raises what it refuses."""
    runner = SimpleNamespace(model=model, train_dataloader=SimpleNamespace(dataset=dataset))
    CheckTeacherHook().before_train(runner)


@pytest.mark.parametrize("theirs", [FILES, ARRAYS], ids=["files", "arrays"])
@pytest.mark.parametrize("ours", [FILES, ARRAYS], ids=["of files", "of arrays"])
def test_order_of_colours_is_what_the_networks_see(tmp_path, trained, theirs, ours):
    teacher = checkpoint_of(trained, tmp_path / "teacher.pth", theirs, to_rgb=theirs is FILES)
    dataset = build(folder_set(tmp_path / "pictures", pipeline=ours))
    right = ours is FILES  # both see RGB
    for to_rgb in (right, not right):
        preprocessor = {**NORMALISATION, "to_rgb": to_rgb}
        model = student_of(teacher, data_preprocessor=preprocessor)
        model.init_weights()
        if to_rgb == right:
            train_with(model, dataset)
            continue
        with pytest.raises(TeacherDataError, match=f"other colours: RGB .*; the student gets BGR.*to_rgb={right}"):
            train_with(model, dataset)
        accepted = student_of(teacher, teacher={"allow_other_images": True}, data_preprocessor=preprocessor)
        accepted.init_weights()
        train_with(accepted, dataset)


@students
@pytest.mark.parametrize("form", ["config", "inline"])
def test_the_teachers_classes_are_those_of_the_training_set(tmp_path, trained, type_name, form):
    names = [str(number) for number in range(10)]
    teacher = checkpoint_of(trained, tmp_path / "teacher.pth", FILES, classes=[names[1], names[0], *names[2:]])
    settings = {"checkpoint": teacher}
    if form == "config":
        settings["config"] = str(tmp_path / "teacher.py")
        Config({"model": {"type": "mmkdprune.HSAKD", "phase": "teacher", **network(20)}}).dump(settings["config"])
    else:
        settings |= network(20)
    options = {"data_preprocessor": dict(NORMALISATION), **network(8)}
    model = build_model(type_name, teacher=settings, **options)
    model.init_weights()
    dataset = SimpleNamespace(metainfo={"classes": names}, pipeline=None)
    with pytest.raises(
        TeacherDataError,
        match=r"order differs: label 0 is '1' in the teacher's checkpoint and '0' in the training set.*"
        r"model.teacher.allow_other_classes=True accepts",
    ):
        train_with(model, dataset)
    accepted = build_model(type_name, teacher={**settings, "allow_other_classes": True}, **options)
    accepted.init_weights()
    train_with(accepted, dataset)
    for other in ({"classes": [names[1], names[0], *names[2:]]}, {}):
        train_with(model, SimpleNamespace(metainfo=other, pipeline=None))


def test_a_config_tells_the_classes_of_bare_weights(tmp_path, trained):
    names = [str(number) for number in range(10)]
    data = {"dataset": {"type": "CustomDataset", "metainfo": {"classes": names[::-1]}}}
    model = {"type": "mmkdprune.HSAKD", "phase": "teacher", **network(20)}
    Config({"model": model, "train_dataloader": data}).dump(tmp_path / "teacher.py")
    settings = {"config": str(tmp_path / "teacher.py"), "checkpoint": trained}
    student = build_model("mmkdprune.HSAKD", teacher=settings, **network(8))
    student.init_weights()
    with pytest.raises(TeacherDataError, match=r"label 0 is '9' in the teacher's config and '0' in the training set"):
        train_with(student, SimpleNamespace(metainfo={"classes": names}, pipeline=None))


def test_a_pretrained_network_with_new_branches_keeps_its_classes(tmp_path):
    names = [str(number) for number in range(10)]
    content = {"state_dict": build_model("ImageClassifier", **network(8)).state_dict()}
    content["meta"] = {"dataset_meta": {"classes": names[::-1]}}
    torch.save(content, tmp_path / "plain.pth")
    for accepted in (False, True):
        pretrained = {"checkpoint": str(tmp_path / "plain.pth"), "allow_other_classes": accepted}
        options = {"phase": "teacher", "teacher_mode": "frozen", "pretrained": pretrained}
        model = build_model("mmkdprune.HSAKD", **options, **network(8))
        model.init_weights()
        dataset = SimpleNamespace(metainfo={"classes": names}, pipeline=None)
        if accepted:
            train_with(model, dataset)
            continue
        with pytest.raises(
            TeacherDataError, match=r"the pretrained network was trained on other.*pretrained.allow_other_clas"
        ):
            train_with(model, dataset)


def test_a_checkpoint_alone_is_no_teacher(trained):
    with pytest.raises(ValueError, match=r"teacher must be dict\(config='...', checkpoint='...'\) or dict\(backbone="):
        build_model("mmkdprune.KnowledgeDistillation", teacher={"checkpoint": trained}, **network(8))
    with pytest.raises(ValueError, match=r"teacher.allow_other_classes must be True or False, got 'yes'"):
        student_of(trained, teacher={"allow_other_classes": "yes"})


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
