import numpy as np
import pytest
import torch

from mmkdprune.models.utils import MemoryIndexSampler

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3], [10, 5, 15]))  # class 2 has no image


def make(num_positives=1, num_negatives=8) -> MemoryIndexSampler:
    sampler = MemoryIndexSampler(num_positives, num_negatives)
    sampler.set_labels(LABELS)
    return sampler


def batch(number=30):
    indices = torch.arange(number)
    return indices, torch.from_numpy(LABELS)[indices]


@pytest.mark.parametrize("num_positives", [1, 3])
def test_positives_are_of_the_class_and_negatives_are_not(num_positives):
    indices, target = batch()
    positives, negatives = make(num_positives, 50)(indices, target)
    assert positives.shape == (30, 1 + num_positives)
    assert negatives.shape == (30, 50)
    assert torch.equal(positives[:, 0], indices)
    labels = torch.from_numpy(LABELS)
    assert (labels[positives] == target[:, None]).all()
    assert (labels[negatives] != target[:, None]).all()


def test_draws_are_even():
    sampler = make(num_negatives=30_000)
    for label, index in ((0, 1), (3, 7)):
        own = torch.tensor([np.flatnonzero(label == LABELS)[index]])
        _, negatives = sampler(own, torch.tensor([label]))
        counts = np.bincount(negatives[0], minlength=30)[label != LABELS]
        expected = 30_000 / len(counts)
        assert abs(counts - expected).max() < 5 * expected**0.5
    positives = torch.cat([sampler(*batch(5))[0] for _ in range(400)])
    assert set(LABELS[positives[:, 1].numpy()]) == set(LABELS[:5])


def test_every_step_draws_anew_and_the_stream_resumes():
    torch.manual_seed(0)
    sampler = make()
    first = sampler(*batch())
    state = sampler.random.state_dict()
    second = sampler(*batch())
    assert not torch.equal(first[1], second[1])
    other = make()
    other.random.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(other(*batch()), second, strict=True))


def test_tables_take_two_numbers_an_image_and_are_not_saved():
    sampler = make()
    assert sum(buffer.numel() for buffer in sampler.buffers()) == 2 * 30 + 2 * 4
    assert not sampler.state_dict()


def test_global_random_numbers_are_left_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    make()(*batch())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("options", "field"), [((0, 8), "num_positives"), ((1, -1), "num_negatives")])
def test_bad_numbers(options, field):
    with pytest.raises(ValueError, match=f"{field} must be an integer of 1 or more"):
        MemoryIndexSampler(*options)


def test_a_single_class_has_no_negatives():
    with pytest.raises(ValueError, match="all images are of one class"):
        MemoryIndexSampler().set_labels([1, 1, 1])
