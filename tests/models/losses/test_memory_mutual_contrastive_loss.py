import pytest
import torch
import torch.nn.functional as F
from testing_helpers import det, golden

from mmkdprune.models.losses import MemoryMutualContrastiveLoss

POSITIVES, NEGATIVES = torch.tensor([[0, 1], [5, 6]]), torch.tensor([[4, 7, 9], [0, 2, 3]])


def golden_loss(dtype=torch.float64, **options):
    loss = MemoryMutualContrastiveLoss(10, 4, 2, **options)
    loss.banks = F.normalize(torch.stack([det((10, 4), 0.53 + 0.2 * i, 0.1 + 0.3 * i) for i in range(2)]), dim=2)
    return loss.to(dtype)


def golden_embeddings(dtype=torch.float64):
    return [F.normalize(det((2, 4), 0.37 + 0.11 * i, 0.5 * i), dim=1).to(dtype).requires_grad_() for i in range(2)]


def random_problem(num_nets, batch=6, negatives=11, num_positives=2, dim=5, num_samples=30, **options):
    torch.manual_seed(0)
    loss = MemoryMutualContrastiveLoss(num_samples, dim, num_nets, **options).double()
    embeddings = [
        F.normalize(torch.randn(batch, dim, dtype=torch.float64), dim=1).requires_grad_() for _ in range(num_nets)
    ]
    own = torch.randperm(num_samples)[:batch, None]
    positives = torch.cat([own, torch.randint(num_samples, (batch, num_positives))], 1)
    return loss, embeddings, positives, torch.randint(num_samples, (batch, negatives))


def autograd_reference(loss, embeddings, positives, negatives):
    """The formulas as they stand, one pair at a time, differentiated by PyTorch."""
    indices, nets = torch.cat([positives, negatives], 1), range(len(embeddings))

    def similarity(i, j):
        return torch.einsum("bd,bkd->bk", embeddings[i], loss.banks[j][indices]) / loss.tau

    def contrast(rows, number):
        return -F.log_softmax(rows, 1)[:, :number].mean()

    def distil(student, teacher):
        student, teacher = (F.log_softmax(rows / loss.temperature, 1) for rows in (student, teacher.detach()))
        return loss.temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="batchmean")

    pairs = [(i, j) for i in nets for j in nets if i != j]
    number = positives.shape[1]
    return {
        "loss_vcl": sum(contrast(similarity(i, i)[:, 1:], number - 1) for i in nets),
        "loss_soft_vcl": sum(distil(similarity(i, i)[:, 1:], similarity(j, j)[:, 1:]) for i, j in pairs),
        "loss_icl": sum(contrast(similarity(i, j), number) for i, j in pairs),
        "loss_soft_icl": sum(distil(similarity(i, j), similarity(j, i)) for i, j in pairs),
    }


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, {"abs": 1e-6}), (torch.float32, {"rel": 1e-4})])
def test_golden(dtype, tolerance):
    expected = golden("kd_losses")["mcl_memory"]
    loss = golden_loss(dtype)
    losses = loss(golden_embeddings(dtype), POSITIVES, NEGATIVES)
    for name in ("vcl", "soft_vcl", "icl", "soft_icl"):
        assert losses[f"loss_{name}"].item() == pytest.approx(expected[name], **tolerance), name
    for row in (0, 1, 5):
        assert loss.banks[0, row].tolist() == pytest.approx(expected[f"memory0_row{row}_after"], abs=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 1, 4, 100])
@pytest.mark.parametrize("num_nets", [1, 2, 3])
def test_values_and_gradients_are_those_of_a_slow_reference(num_nets, chunk_size):
    loss, embeddings, positives, negatives = random_problem(num_nets, chunk_size=chunk_size)
    expected = autograd_reference(loss, embeddings, positives, negatives)
    if num_nets == 1:
        expected = {"loss_vcl": expected["loss_vcl"]}
    slopes = {
        name: torch.autograd.grad(value, embeddings, retain_graph=True, allow_unused=True)
        for name, value in expected.items()
    }
    losses = loss(embeddings, positives, negatives)
    torch.testing.assert_close(losses, expected)
    for name, value in losses.items():
        torch.testing.assert_close(torch.autograd.grad(value, embeddings, retain_graph=True), slopes[name])
    # The banks have changed by now; the gradients are those of the banks that the terms saw.
    weighted = sum((index + 1) * value for index, value in enumerate(losses.values()))
    total = [
        sum((index + 1) * slope[net] for index, slope in enumerate(slopes.values())) for net in range(len(embeddings))
    ]
    torch.testing.assert_close(list(torch.autograd.grad(weighted, embeddings)), total)


def test_banks_change_in_training_only_and_for_the_batch_only():
    loss, embeddings, positives, negatives = random_problem(2, momentum=0.25)
    before = loss.banks.clone()
    with torch.no_grad():
        evaluated = loss.eval()(embeddings, positives, negatives)
    assert torch.equal(loss.banks, before)
    trained = loss.train()(embeddings, positives, negatives)
    torch.testing.assert_close({name: value.detach() for name, value in trained.items()}, evaluated)
    own = positives[:, 0]
    expected = before.clone()
    for net, rows in enumerate(embeddings):
        expected[net, own] = F.normalize(0.25 * before[net, own] + 0.75 * rows.detach(), dim=1)
    torch.testing.assert_close(loss.banks, expected)


def test_an_image_drawn_twice_takes_its_last_vector():
    loss = golden_loss()
    embeddings = golden_embeddings()
    positives = torch.tensor([[3, 1], [3, 6]])
    expected = F.normalize(0.5 * loss.banks[1, 3] + 0.5 * embeddings[1][1].detach(), dim=0)
    loss(embeddings, positives, NEGATIVES)
    torch.testing.assert_close(loss.banks[1, 3], expected)


def test_initial_banks_are_even_and_saved():
    loss = MemoryMutualContrastiveLoss(1000, 12, 2)
    bound = 0.5  # sqrt(3 / 12)
    assert loss.banks.abs().max() <= bound
    assert loss.banks.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert set(loss.state_dict()) == {"banks"}


def test_banks_made_to_measure():
    loss = MemoryMutualContrastiveLoss(dim=4)
    with pytest.raises(ValueError, match=r"no banks yet: give num_samples.*allocate"):
        loss(golden_embeddings(), POSITIVES, NEGATIVES)
    loss.allocate(10)
    banks = loss.banks
    loss.allocate(10)  # a resumed run finds those it has
    assert loss.banks is banks
    with pytest.raises(ValueError, match=r"num_samples=10 images and the training set has 12"):
        loss.allocate(12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    half = [rows.detach().to(dtype).requires_grad_() for rows in golden_embeddings()]
    expected = golden_loss(torch.float32)([rows.detach().float() for rows in half], POSITIVES, NEGATIVES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = golden_loss(torch.float32)(half, POSITIVES, NEGATIVES)
    torch.testing.assert_close({name: value.detach() for name, value in losses.items()}, expected)
    sum(losses.values()).backward()
    assert all(rows.grad.dtype == dtype and rows.grad.isfinite().all() for rows in half)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_samples": 0}, "num_samples must be an integer of 1 or more, got 0"),
        ({"dim": 0}, "dim must be an integer of 1 or more"),
        ({"num_nets": 0}, "num_nets must be an integer of 1 or more"),
        ({"momentum": 1.5}, "momentum must lie between 0 and 1, got 1.5"),
        ({"chunk_size": 0}, "chunk_size must be an integer of 1 or more, or None"),
        ({"tau": -1}, "tau must be a positive number"),
        ({"temperature": 0}, "temperature must be a positive number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        MemoryMutualContrastiveLoss(**{"num_samples": 10, **options})


E2 = [torch.eye(4)[:2]] * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((E2[:1], POSITIVES, NEGATIVES), "made for num_nets=2 embeddings of dim=4, got 1 of 4"),
        (([torch.eye(3)[:2]] * 2, POSITIVES, NEGATIVES), "got 2 of 3"),
        ((E2, POSITIVES[:, :1], NEGATIVES), r"positives must be .*\(B, 2 or more\) for B = 2 images, got \(2, 1\)"),
        ((E2, POSITIVES, NEGATIVES[:1]), r"negatives must be .* got \(1, 3\)"),
        ((E2, POSITIVES, NEGATIVES[:, :0]), r"negatives must be .* got \(2, 0\)"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        golden_loss()(*arguments)
