import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine.runner.checkpoint import get_state_dict
from testing_helpers import det, forbid_host_synchronisation, golden

from mmkdprune.models.losses import QueueMutualContrastiveLoss, kd_loss


def unit(number, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(number, dim, generator=generator, dtype=torch.float64), dim=1)


def problem(num_nets=2, batch=4, queue_size=12, dim=5, **options):
    torch.manual_seed(0)
    loss = QueueMutualContrastiveLoss(queue_size, dim, num_nets, **options).double()
    queries = [unit(batch, dim, seed).requires_grad_() for seed in range(num_nets)]
    return loss, queries, [unit(batch, dim, 10 + seed) for seed in range(num_nets)]


def reference(loss, queries, keys):
    """The formulas as they stand, one pair at a time."""

    def logits(i, j):
        own = (queries[i] * keys[j]).sum(1, keepdim=True)
        return torch.cat([own, queries[i] @ loss.queues[j].clone().T], 1) / loss.tau

    right = torch.zeros(len(keys[0]), dtype=torch.int64)
    nets = range(len(queries))
    pairs = [(i, j) for i in nets for j in nets if i != j]
    losses = {"loss_vcl": sum(F.cross_entropy(logits(i, i), right) for i in nets)}
    if pairs:
        losses["loss_soft_vcl"] = sum(kd_loss(logits(i, i), logits(j, j), loss.temperature) for i, j in pairs)
        losses["loss_icl"] = sum(F.cross_entropy(logits(i, j), right) for i, j in pairs)
        losses["loss_soft_icl"] = sum(kd_loss(logits(i, j), logits(j, i), loss.temperature) for i, j in pairs)
    return losses


def golden_problem(dtype=torch.float64):
    images, others = det((2, 6), 0.9, 0.1), det((2, 6), 1.1, 0.4)
    queries, keys = [], []
    for i in range(2):
        query = images @ det((4, 6), 0.31 + 0.1 * i, 0.2 * i).T + det((4,), 0.7, 0.1 * i, 0.1)
        weight = 0.9 * det((4, 6), 0.27 + 0.1 * i, 0.3 * i) + 0.1 * det((4, 6), 0.31 + 0.1 * i, 0.2 * i)
        bias = 0.9 * det((4,), 0.5, 0.2 * i, 0.1) + 0.1 * det((4,), 0.7, 0.1 * i, 0.1)
        queries.append(F.normalize(query, dim=1).to(dtype))
        keys.append(F.normalize(others @ weight.T + bias, dim=1).to(dtype))
    loss = QueueMutualContrastiveLoss(8, 4, 2)
    loss.queues = F.normalize(det((2, 4, 8), 0.43, 0.2), dim=1).transpose(1, 2)
    return loss.to(dtype), queries, keys


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, {"abs": 1e-6}), (torch.float32, {"rel": 1e-4})])
def test_golden(dtype, tolerance):
    expected = golden("kd_losses")["mcl_moco"]
    loss, queries, keys = golden_problem(dtype)
    logits = loss.compare(queries, keys)
    assert logits[0, 0, 0].tolist() == pytest.approx(expected["logits0_row0"], **tolerance)
    losses = loss(queries, keys)
    for name in ("vcl", "soft_vcl", "icl", "soft_icl"):
        assert losses[f"loss_{name}"].item() == pytest.approx(expected[name], **tolerance), name
        assert losses[f"loss_{name}"].dtype == dtype
    state = loss.state_dict()
    assert state["queues"][0, 0].tolist() == pytest.approx(expected["queue0_col0_after"], **tolerance)
    assert state["pointer"].tolist() == expected["queue_ptr"][:1]


@pytest.mark.parametrize("num_nets", [1, 2, 3])
def test_terms_and_gradients_are_those_of_the_formulas(num_nets):
    loss, queries, keys = problem(num_nets, tau=0.2, temperature=2.0)
    expected, actual = reference(loss, queries, keys), loss(queries, keys)
    torch.testing.assert_close(actual, expected)
    weights = [1.0, 0.3, 0.7, 0.2][: len(expected)]
    for losses in (expected, actual):
        gradients = torch.autograd.grad(
            sum(w * value for w, value in zip(weights, losses.values(), strict=True)), queries
        )
        if losses is expected:
            kept = gradients
    torch.testing.assert_close(gradients, kept)


def test_terms_do_not_depend_on_the_order_of_networks_and_equal_ones_teach_nothing():
    loss, queries, keys = problem(3)
    before = loss.terms(loss.compare(queries, keys))
    loss.queues = loss.queues.flip(0)
    torch.testing.assert_close(loss.terms(loss.compare(queries[::-1], keys[::-1])), before)
    loss.queues = loss.queues[:1].repeat(3, 1, 1)
    same = loss.terms(loss.compare(queries[:1] * 3, keys[:1] * 3))
    assert same["loss_soft_vcl"].abs() < 1e-12
    assert same["loss_soft_icl"].abs() < 1e-12


def test_no_gradient_reaches_keys_and_queues():
    loss, queries, keys = problem()
    keys = [rows.requires_grad_() for rows in keys]
    sum(loss(queries, keys).values()).backward()
    assert all(rows.grad is None for rows in keys)
    assert all(rows.grad.abs().sum() > 0 for rows in queries)
    assert not loss.queues.requires_grad


def test_queue_is_a_ring_of_the_latest_keys():
    loss, *_ = problem(batch=4, queue_size=12)
    memory = loss.queues.data_ptr()
    seen = []
    for step in range(5):
        queries, keys = ([unit(4, 5, 100 + 10 * step + net) for net in range(2)] for _ in range(2))
        before = loss.state_dict()["queues"].clone()
        torch.testing.assert_close(loss(queries, keys), reference(loss_with(loss, before), queries, keys))
        seen.append(torch.stack(keys))
    state = loss.state_dict()
    assert state["pointer"].tolist() == [20 % 12]
    for step, place in ((2, 8), (3, 0), (4, 4)):
        assert torch.equal(state["queues"][:, place : place + 4], seen[step])
    assert loss.queues.data_ptr() == memory  # written in place


def loss_with(loss, queues):
    other = copy.deepcopy(loss)
    other.queues = queues
    other._waiting = None
    return other


def test_keys_longer_than_the_rest_of_the_ring_go_on_at_its_start():
    loss, *_ = problem(batch=4, queue_size=12)
    loss.pointer.fill_(10)  # as if the batch size had changed on resuming
    keys = torch.stack([unit(4, 5, seed) for seed in range(2)], 1)
    loss.enqueue(keys)
    state = loss.state_dict()
    assert state["pointer"].tolist() == [2]
    assert torch.equal(state["queues"][:, [10, 11, 0, 1]], keys.transpose(0, 1))


@pytest.mark.parametrize("save", [lambda m: m.state_dict(), get_state_dict], ids=["pytorch", "mmengine"])
def test_a_checkpoint_holds_the_last_keys_and_goes_on_alike(save):
    loss, queries, keys = problem()
    loss(queries, keys)
    state = copy.deepcopy(save(loss))
    assert torch.equal(state["queues"][:, :4], torch.stack(keys))
    other, *_ = problem()
    other(queries, keys[::-1])  # keys that wait are not those of the checkpoint
    other.load_state_dict(state)
    torch.testing.assert_close(other(queries, keys), loss(queries, keys), rtol=0, atol=0)
    assert all(torch.equal(value, loss.state_dict()[name]) for name, value in other.state_dict().items())


def test_evaluation_leaves_the_queue_alone():
    loss, queries, keys = problem()
    before = loss.state_dict()["queues"].clone()
    loss.eval()(queries, keys)
    assert torch.equal(loss.state_dict()["queues"], before)
    assert loss.pointer.tolist() == [0]


def test_keys_that_wait_move_with_the_module():
    loss, queries, keys = problem()
    loss(queries, keys)
    loss.float()
    assert loss.state_dict()["queues"].dtype == torch.float32
    torch.testing.assert_close(loss.queues[:, :4], torch.stack(keys).float())


def test_half_precision_is_computed_in_float32():
    loss, queries, keys = problem()
    halved = [[rows.detach().bfloat16() for rows in part] for part in (queries, keys)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = loss.float()(*halved)
    expected = loss_with(loss, problem()[0].queues.float())(*([rows.float() for rows in part] for part in halved))
    torch.testing.assert_close(losses, expected)
    assert all(value.dtype == torch.float32 for value in losses.values())


def test_large_similarities_stay_finite():
    loss, queries, _ = problem(tau=1e-3)
    losses = loss(queries, [-rows.detach() for rows in queries])
    assert all(value.isfinite() for value in losses.values())


def test_no_host_synchronisation(monkeypatch):
    loss, queries, keys = problem()
    forbid_host_synchronisation(monkeypatch)
    for _ in range(2):
        sum(loss(queries, keys).values()).backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"queue_size": 0}, "queue_size must be an integer of 1 or more, got 0"),
        ({"queue_size": 8.0}, "queue_size must be a whole number, got 8.0"),
        ({"dim": True}, "dim must be a whole number, got True"),
        ({"num_nets": 0}, "num_nets must be an integer of 1 or more, got 0"),
        ({"tau": 0}, "tau must be a positive number, got 0"),
        ({"temperature": -1}, "temperature must be a positive number, got -1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        QueueMutualContrastiveLoss(**{"queue_size": 8, "dim": 4, **options})


def test_bad_batches():
    loss, queries, keys = problem()
    with pytest.raises(ValueError, match=r"num_nets=2 networks .* dim=5, got queries of 1 and keys of 2"):
        loss(queries[:1], keys)
    with pytest.raises(ValueError, match="same shape"):
        loss(queries, [rows[:3] for rows in keys])
    with pytest.raises(ValueError, match=r"dim=5, .* with 4 dimensions"):
        loss([rows[:, :4] for rows in queries], [rows[:, :4] for rows in keys])
    three = [[rows[:3] for rows in part] for part in (queries, keys)]
    loss(*three)
    five = [[torch.cat([rows, rows[:1]]) for rows in part] for part in (queries, keys)]
    with pytest.raises(ValueError, match=r"queue_size=12 is no multiple of the 5 images.*queue_size=10.*drop_last"):
        loss(*five)
    larger = [[rows.repeat(6, 1) for rows in part] for part in (queries, keys)]
    with pytest.raises(ValueError, match=r"queue_size=12 is no multiple of the 24 images.*queue_size=24"):
        loss(*larger)
