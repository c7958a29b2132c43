import pytest
import torch
import torch.nn.functional as F
from testing_helpers import assert_equal_states, batch, build_model, network, samples, save_weights, trained_state

from mmkdprune.models.losses import DISTLoss, DKDLoss, KDLoss, kd_loss

KD = "mmkdprune.KnowledgeDistillation"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    torch.manual_seed(1)
    teacher = build_model("ImageClassifier", **network(20))
    teacher.init_weights()
    return save_weights(teacher, tmp_path_factory.mktemp("kd") / "teacher.pth")


def student_of(checkpoint: str, **options):
    torch.manual_seed(5)
    model = build_model(KD, teacher={**network(20), "checkpoint": checkpoint}, **network(8), **options)
    model.init_weights()
    return model.train()


def test_terms(checkpoint):
    model = student_of(checkpoint, temperature=2.0, loss_weights={"loss_kd": 0.5})
    images, data_samples = batch()
    losses = model(images, data_samples, mode="loss")
    with torch.no_grad():
        taught = model.teacher.network(images)
        logits = model(images)  # batch statistics do not depend on the running ones
    expected = {
        "loss_ce": F.cross_entropy(logits, torch.arange(6)),
        "loss_kd": 0.5 * kd_loss(logits, taught, 2.0),
    }
    torch.testing.assert_close(losses, expected)


@pytest.mark.parametrize(
    ("settings", "loss"),
    [
        ({"type": "mmkdprune.KDLoss", "temperature": 3.0}, KDLoss(3.0)),
        ({"type": "mmkdprune.DKDLoss", "beta": 2.0}, DKDLoss(beta=2.0)),
        ({"type": "mmkdprune.DISTLoss"}, DISTLoss()),
    ],
    ids=["KD", "DKD", "DIST"],
)
def test_a_distiller_is_a_loss(checkpoint, settings, loss):
    model = student_of(checkpoint, loss=settings, loss_weights={"loss_kd": 0.5})
    images, data_samples = batch()
    losses = model(images, data_samples, mode="loss")
    with torch.no_grad():
        expected = 0.5 * loss(model(images), model.teacher.network(images), torch.arange(6))
    torch.testing.assert_close(losses["loss_kd"], expected)
    losses["loss_kd"].backward()
    assert model.backbone.conv1.weight.grad.abs().sum() > 0


class ScaledKD(KDLoss):
    """Somebody's loss with a parameter and random initial weights."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Linear(1, 1)

    def forward(self, student, teacher, target=None):
        return super().forward(student, teacher) * self.scale.weight.exp().sum()


def test_a_loss_with_parameters_trains_and_leaves_the_student_as_it_is(checkpoint):
    plain, model = student_of(checkpoint), student_of(checkpoint, loss=ScaledKD())
    state = model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
    assert "kd_loss.scale.weight" in dict(model.named_parameters())
    model(*batch(), mode="loss")["loss_kd"].backward()
    assert model.kd_loss.scale.weight.grad is not None


def test_teacher_gets_no_gradient_and_the_student_one_everywhere(checkpoint):
    model = student_of(checkpoint)
    sum(model(*batch(), mode="loss").values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.teacher.network.parameters())


@pytest.mark.parametrize(
    "weights", [{"loss_ce": 0, "loss_kd": 0}, {"loss_kd": 0}], ids=["all weights 0", "no distillation"]
)
def test_without_distillation_it_trains_the_plain_network(checkpoint, weights):
    teacher = {**network(20), "checkpoint": checkpoint}
    ours = trained_state(KD, teacher=teacher, loss_weights=weights, **network(8))
    assert_equal_states(ours, trained_state("ImageClassifier", **network(8)))


def test_bad_input(checkpoint):
    with pytest.raises(ValueError, match="temperature must be a positive number, got 0"):
        student_of(checkpoint, temperature=0)
    with pytest.raises(ValueError, match="temperature is that of the default loss"):
        student_of(checkpoint, temperature=2.0, loss={"type": "mmkdprune.DKDLoss"})
    with pytest.raises(ValueError, match=r"outside 0 ... 9.*got \[10\]"):
        student_of(checkpoint)(torch.randn(2, 3, 16, 16), samples(0, 10), mode="loss")
