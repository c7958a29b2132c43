import numpy as np
import pytest

from mmkdprune.evaluation import EpisodeSampler, EpisodeShape

# 7 classes of unequal size, in random order, with numbers that leave gaps.
LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 3, 4, 8, 9, 12], [9, 8, 30, 12, 8, 17, 10]))


SHAPE = EpisodeShape(5, 3, 4)


def draw(shape=SHAPE, num_episodes=200, seed=0, chunk=1000, labels=LABELS):
    sampler = EpisodeSampler(labels, shape, num_episodes, seed)
    parts = []
    while len(sampler):
        parts.append(sampler.draw(chunk))
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def test_episodes_are_balanced_and_disjoint():
    support, query = draw()
    assert (support.shape, query.shape) == ((200, 5, 3), (200, 5, 4))
    for episode in np.concatenate([support, query], axis=2):
        classes = LABELS[episode]
        assert (classes == classes[:, :1]).all()
        assert len(set(classes[:, 0].tolist())) == 5
        assert len(set(episode.flatten().tolist())) == episode.size


def test_depend_on_the_seed_only():
    first = draw()
    assert all(np.array_equal(a, b) for a, b in zip(first, draw(chunk=7), strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, draw(seed=1), strict=True))


def test_all_classes_and_images_are_used_evenly():
    support, query = draw(EpisodeShape(2, 1, 7), 2000)
    images = np.bincount(np.concatenate([support, query], axis=2).flatten(), minlength=len(LABELS))
    assert images.min() > 0
    classes = np.bincount(LABELS[support[..., 0]].flatten())
    expected = 2000 * 2 / 7
    assert np.abs(classes[classes > 0] - expected).max() < 5 * np.sqrt(expected)
    small = images[LABELS == 1]  # 8 images, all of them used whenever the class is drawn
    assert (small == classes[1]).all()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 1, 5), "num_ways=8 need as many classes, but the data set has 7: lower num_ways to 7"),
        ((5, 3, 6), r"3 \+ 6 = 9 images of every class, but class 1 has 8: lower num_queries to 5"),
        ((5, 8, 1), "num_shots=8 need more than 8 images of every class, but class 1 has 8: lower num_shots"),
    ],
)
def test_too_little_data(shape, message):
    with pytest.raises(ValueError, match=message):
        draw(EpisodeShape(*shape))


@pytest.mark.parametrize("options", [{"num_ways": 1}, {"num_shots": 0}, {"num_queries": 0}, {"num_shots": 1.5}])
def test_impossible_shapes(options):
    (name,) = options
    with pytest.raises(ValueError, match=name):
        EpisodeShape(**{"num_ways": 5, "num_shots": 1, **options})
    with pytest.raises(ValueError, match="num_episodes must be a positive integer, got 0"):
        draw(num_episodes=0)
