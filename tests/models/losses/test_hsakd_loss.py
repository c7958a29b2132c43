import pytest
import torch
import torch.nn.functional as F
from testing_helpers import det, golden

from mmkdprune.models.losses import HSAKDStudentLoss, HSAKDTeacherLoss, OnlineHSSAKDLoss, kd_loss
from mmkdprune.models.utils import joint_target

CLASSES, TARGET = 3, torch.tensor([1, 2])


def leaf(tensor, dtype):
    return tensor.to(dtype).requires_grad_()


def golden_inputs(dtype=torch.float64):
    """Student's and teacher's logits of the golden values: B = 2, N = 3, two branches."""
    student = leaf(det((8, 3), 0.4, 0.2, 2), dtype)
    teacher = leaf(det((8, 3), 0.9, 0.7, 2), dtype)
    joint = [leaf(det((8, 12), 0.17 + 0.1 * k, 0.3 * k, 2), dtype) for k in range(2)]
    teacher_joint = [leaf(det((8, 12), 0.29 + 0.1 * k, 0.6 + 0.1 * k, 2), dtype) for k in range(2)]
    return student, joint, teacher, teacher_joint


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, {"abs": 1e-6}), (torch.float32, {"rel": 1e-4})])
def test_golden(dtype, tolerance):
    expected = golden("kd_losses")["hsakd"]
    student, joint, teacher, teacher_joint = golden_inputs(dtype)
    losses = HSAKDTeacherLoss()(teacher, teacher_joint, TARGET)
    assert list(losses) == ["loss_ce", "loss_joint_ce"]
    assert losses["loss_ce"].item() == pytest.approx(expected["teacher_ce"], **tolerance)
    assert losses["loss_joint_ce"].item() == pytest.approx(expected["teacher_ce_sad"], **tolerance)
    losses = HSAKDStudentLoss(3.0)(student, joint, teacher, teacher_joint, TARGET)
    assert list(losses) == ["loss_ce", "loss_kd", "loss_joint_kd"]
    for ours, theirs in {"loss_ce": "student_task", "loss_kd": "student_kl_p", "loss_joint_kd": "student_kl_q"}.items():
        assert losses[ours].item() == pytest.approx(expected[theirs], **tolerance)
    losses = OnlineHSSAKDLoss(3.0)([student, teacher], [joint, teacher_joint], TARGET)
    assert list(losses) == ["loss_ce", "loss_joint_ce", "loss_kd", "loss_joint_kd"]
    cls, div = losses["loss_ce"] + losses["loss_joint_ce"], losses["loss_kd"] + losses["loss_joint_kd"]
    assert cls.item() == pytest.approx(expected["online_cls"], **tolerance)
    assert div.item() == pytest.approx(expected["online_div"], **tolerance)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("number", [2, 3])
def test_online_equals_a_slow_reference(number, average):
    logits = [torch.randn(8, CLASSES, dtype=torch.float64) for _ in range(number)]
    joint = [[torch.randn(8, 4 * CLASSES, dtype=torch.float64) for _ in range(2)] for _ in range(number)]
    expected = dict.fromkeys(("loss_ce", "loss_joint_ce", "loss_kd", "loss_joint_kd"), 0.0)
    for n in range(number):
        expected["loss_ce"] += F.cross_entropy(torch.stack([logits[n][0], logits[n][4]]), TARGET)
        for branch in joint[n]:
            labels = torch.tensor([4 * y + k for y in TARGET.tolist() for k in range(4)])
            expected["loss_joint_ce"] += F.cross_entropy(branch, labels)
        for m in range(number):
            share = 1 / (number - 1) if average else 1
            if m != n:
                expected["loss_kd"] += share * kd_loss(logits[n], logits[m], 3.0)
                for own, other in zip(joint[n], joint[m], strict=True):
                    expected["loss_joint_kd"] += share * kd_loss(own, other, 3.0)
    torch.testing.assert_close(OnlineHSSAKDLoss(3.0, average)(logits, joint, TARGET), expected)


def test_swapping_the_networks_changes_nothing():
    student, joint, teacher, teacher_joint = golden_inputs()
    losses = OnlineHSSAKDLoss()([student, teacher], [joint, teacher_joint], TARGET)
    torch.testing.assert_close(OnlineHSSAKDLoss()([teacher, student], [teacher_joint, joint], TARGET), losses)


def test_equal_networks_leave_nothing_to_distil():
    student, joint, *_ = golden_inputs()
    losses = HSAKDStudentLoss()(student, joint, student, joint, TARGET)
    assert losses["loss_kd"] == losses["loss_joint_kd"] == 0
    losses = OnlineHSSAKDLoss()([student, student], [joint, joint], TARGET)
    assert losses["loss_kd"] == losses["loss_joint_kd"] == 0


def test_permuting_the_images_changes_nothing():
    student, joint, teacher, teacher_joint = golden_inputs()
    rows = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])

    def shuffled(items):
        return [item[rows] for item in items]

    loss = HSAKDStudentLoss()
    original = loss(student, joint, teacher, teacher_joint, TARGET)
    permuted = loss(student[rows], shuffled(joint), teacher[rows], shuffled(teacher_joint), TARGET.flip(0))
    torch.testing.assert_close(permuted, original)
    original = HSAKDTeacherLoss()(teacher, teacher_joint, TARGET)
    torch.testing.assert_close(HSAKDTeacherLoss()(teacher[rows], shuffled(teacher_joint), TARGET.flip(0)), original)


def test_cross_entropy_sees_the_images_that_are_not_rotated_only():
    student, joint, teacher, teacher_joint = golden_inputs()
    rotated = torch.tensor([0.0, 1, 1, 1, 0, 1, 1, 1], dtype=torch.float64)[:, None]
    for loss, rest in ((HSAKDTeacherLoss(), ()), (HSAKDStudentLoss(), (teacher, teacher_joint))):
        before, after = (loss(p, joint, *rest, TARGET) for p in (student, student + rotated * torch.randn(8, 3)))
        assert before["loss_ce"] == after["loss_ce"]
    assert after["loss_kd"] != before["loss_kd"]


def test_a_teacher_gets_no_gradient():
    student, joint, teacher, teacher_joint = golden_inputs()
    losses = HSAKDStudentLoss()(student, joint, teacher, teacher_joint, TARGET)
    sum(losses.values()).backward()
    assert all(item.grad is None for item in (teacher, *teacher_joint))
    assert all(item.grad.abs().max() > 0 for item in (student, *joint))


def test_each_direction_of_online_distillation_teaches_one_network():
    student, joint, teacher, teacher_joint = golden_inputs()
    losses = OnlineHSSAKDLoss()([student, teacher], [joint, teacher_joint], TARGET)
    for name, first, second in (("loss_kd", student, teacher), ("loss_joint_kd", joint[1], teacher_joint[1])):
        gradients = torch.autograd.grad(losses[name], (first, second), retain_graph=True)
        alone = [
            torch.autograd.grad(kd_loss(one, other, 3.0), one)[0] for one, other in ((first, second), (second, first))
        ]
        torch.testing.assert_close(list(gradients), alone)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    half = [
        [(20 * item).to(dtype).detach() for item in part] if isinstance(part, list) else (20 * part).to(dtype).detach()
        for part in golden_inputs()
    ]
    single = [[item.float() for item in part] if isinstance(part, list) else part.float() for part in half]

    def run(student, joint, teacher, teacher_joint):
        return {
            **HSAKDStudentLoss()(student, joint, teacher, teacher_joint, TARGET),
            **{
                f"online {k}": v
                for k, v in OnlineHSSAKDLoss()([student, teacher], [joint, teacher_joint], TARGET).items()
            },
            **{f"teacher {k}": v for k, v in HSAKDTeacherLoss()(student, joint, TARGET).items()},
        }

    expected = run(*single)
    for name, value in run(*half).items():
        assert value.dtype == torch.float32, name
        torch.testing.assert_close(value, expected[name])


def test_branches_can_be_left_out():
    student, _, teacher, _ = golden_inputs()
    assert set(HSAKDTeacherLoss()(student, [], TARGET)) == {"loss_ce"}
    assert set(HSAKDStudentLoss()(student, [], teacher, [], TARGET)) == {"loss_ce", "loss_kd"}
    assert set(OnlineHSSAKDLoss()([student, teacher], [[], []], TARGET)) == {"loss_ce", "loss_kd"}


def test_joint_labels_of_the_loss():
    logits = torch.zeros(8, 12)
    logits[torch.arange(8), joint_target(TARGET)] = 50.0
    assert HSAKDTeacherLoss()(torch.zeros(8, 3), [logits], TARGET)["loss_joint_ce"].item() == pytest.approx(0, abs=1e-6)


P, Q = torch.zeros(8, 3), torch.zeros(8, 12)


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        (HSAKDTeacherLoss(), (P[:2], [Q], TARGET), r"4B = 8 rows for 2 labels.*got \(2, 3\)"),
        (HSAKDTeacherLoss(), (P, [Q[:, :3]], TARGET), r"\(4B, 4N\) = \(8, 12\), got \[\(8, 3\)\]"),
        (HSAKDTeacherLoss(), (P, [Q], torch.tensor([1, 3])), r"outside 0 ... 2, the range of 3 classes: got \[3\]"),
        (HSAKDTeacherLoss(), (P, [Q], torch.tensor([-1, 2])), r"got \[-1\]"),
        (HSAKDTeacherLoss(), (P, [Q], torch.ones(2)), "soft or multi-label"),
        (HSAKDStudentLoss(), (P, [Q], P[:, :2], [Q], TARGET), "same num_classes"),
        (HSAKDStudentLoss(), (P, [Q, Q], P, [Q], TARGET), "student has 2 branches and the teacher 1"),
        (OnlineHSSAKDLoss(), ([P], [[Q]], TARGET), "at least two networks, got 1 and 1"),
        (OnlineHSSAKDLoss(), ([P, torch.zeros(8, 4)], [[], []], TARGET), "same num_classes"),
        (OnlineHSSAKDLoss(), ([torch.zeros(8, 4), torch.zeros(8, 1)], [[], []], TARGET * 0), "same num_classes"),
        (OnlineHSSAKDLoss(), ([P, P], [[Q], [Q, Q]], TARGET), r"have \[1, 2\] branches"),
    ],
)
def test_bad_input(loss, arguments, message):
    with pytest.raises(ValueError, match=message):
        loss(*arguments)


@pytest.mark.parametrize("loss", [HSAKDStudentLoss, OnlineHSSAKDLoss])
@pytest.mark.parametrize("temperature", [0, "hot", float("nan")])
def test_bad_temperature(loss, temperature):
    with pytest.raises(ValueError, match=rf"{loss.__name__}: temperature must be a (positive )?number"):
        loss(temperature=temperature)
