# ruff: noqa: NPY002 (the legacy functions are what MMEngine seeds and transforms use)
import contextlib
import copy
import io
import pickle
import random

import numpy as np
import pytest
import torch

from mmkdprune.randomness import PrivateRandom, derive_seed, get_global_state, isolated_random_state, set_global_state


def draw_global():
    return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()


def draw_private(stream):
    return stream.beta(0.2, 0.2), stream.permutation(7).tolist(), stream.integers(0, 100, (2, 3)).tolist()


@pytest.fixture(autouse=True)
def _seeded():
    """Every test starts from the same seed and leaves the session's random state alone."""
    state = get_global_state()
    torch.manual_seed(0)
    yield
    set_global_state(state)


def test_private_stream_leaves_global_state_alone():
    state = get_global_state()
    expected = draw_global()
    set_global_state(state)
    draw_private(PrivateRandom("a"))
    assert draw_global() == expected


def test_private_stream_depends_on_seed_rank_and_name(monkeypatch):
    first = draw_private(PrivateRandom("a"))
    assert draw_private(PrivateRandom("a")) == first
    assert draw_private(PrivateRandom("b")) != first
    torch.manual_seed(1)
    assert draw_private(PrivateRandom("a")) != first
    torch.manual_seed(0)
    monkeypatch.setattr("mmengine.dist.get_rank", lambda: 1)
    assert draw_private(PrivateRandom("a")) != first


def test_seeds_are_the_same_in_every_process():
    assert derive_seed("a", 3) == 317704073498241232110260320085022287575


def test_private_draws():
    stream = PrivateRandom("a")
    shares = [stream.beta(2.0, 2.0) for _ in range(500)]
    assert all(0 < share < 1 for share in shares)
    assert abs(np.mean(shares) - 0.5) < 0.05
    order = stream.permutation(9)
    assert order.dtype == torch.int64
    assert sorted(order.tolist()) == list(range(9))
    numbers = stream.integers(3, 6, 200)
    assert numbers.dtype == torch.int64
    assert set(numbers.tolist()) == {3, 4, 5}
    assert stream.permutation(0).numel() == 0


@pytest.mark.parametrize("used", [True, False])
def test_private_state_through_a_file(used):
    stream, other = PrivateRandom("a"), PrivateRandom("b")
    if used:
        draw_private(stream)
        stream.integers(0, 5)  # leaves half a word behind
    draw_private(other)
    file = io.BytesIO()
    torch.save(stream.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    if not used:
        other.name = "a"
    assert draw_private(other) == draw_private(stream)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_private_copy_is_independent(clone):
    stream = PrivateRandom("a")
    draw_private(stream)
    other = clone(stream)
    assert draw_private(other) == draw_private(stream)
    draw_private(other)
    assert draw_private(other) != draw_private(stream)


def test_isolation_restores_everything():
    state = get_global_state()
    expected = draw_global()
    set_global_state(state)
    with contextlib.suppress(ZeroDivisionError), isolated_random_state("parts"):
        draw_global()
        raise ZeroDivisionError
    assert torch.initial_seed() == 0
    assert draw_global() == expected


def test_isolation_repeats_itself():
    def numbers(name):
        with isolated_random_state(name):
            return draw_global()

    first = numbers("a")
    draw_global()
    assert numbers("a") == first
    assert numbers("b") != first
    with isolated_random_state("b"):
        draw_global()
        assert numbers("a") == first  # nested
    torch.manual_seed(1)
    assert numbers("a") != first


def test_private_stream_that_begins_in_isolation():
    outside, inside = PrivateRandom("a"), PrivateRandom("a")
    with isolated_random_state("parts"):
        drawn = draw_private(inside)
    assert drawn == draw_private(outside)


def test_network_is_initialised_as_without_the_additional_part():
    def build(with_part):
        torch.manual_seed(3)
        first = torch.nn.Linear(3, 3)
        if with_part:
            with isolated_random_state("part"):
                torch.nn.Linear(50, 50)
        return [*first.parameters(), *torch.nn.Linear(3, 3).parameters()]

    assert all(torch.equal(one, other) for one, other in zip(build(True), build(False), strict=True))


def test_global_state_through_a_file():
    file = io.BytesIO()
    np.random.randn()  # keeps a second Gaussian in store
    random.gauss(0, 1)
    torch.save(get_global_state(), file)
    expected = [draw_global(), np.random.randn(), random.gauss(0, 1)]
    file.seek(0)
    set_global_state(torch.load(file, weights_only=True))
    assert [draw_global(), np.random.randn(), random.gauss(0, 1)] == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_global_state_of_cuda():
    torch.rand(1, device="cuda")
    state = get_global_state()
    expected = torch.rand(3, device="cuda")
    # MMEngine loads a checkpoint to the device, the random state included.
    state = {key: value.cuda() if isinstance(value, torch.Tensor) else value for key, value in state.items()}
    set_global_state(state)
    assert torch.equal(torch.rand(3, device="cuda"), expected)
