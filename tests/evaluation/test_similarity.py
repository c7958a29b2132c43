import pytest
import torch

from mmkdprune.evaluation.similarity import linear_cka, mean_cosine, similarity_matrix

FEATURES = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))


def slow_cka(first, second):
    """By the Gram matrices, centred explicitly."""
    centring = torch.eye(len(first)).double() - 1 / len(first)
    first, second = (centring @ (part.double() @ part.double().T) @ centring for part in (first, second))
    return ((first * second).sum() / (first.norm() * second.norm())).item()


@pytest.mark.parametrize("dim", [3, 200])
def test_cka_is_that_of_the_gram_matrices(dim):
    other = torch.randn(60, dim) + FEATURES @ torch.randn(8, dim)
    assert linear_cka(FEATURES, other) == pytest.approx(slow_cka(FEATURES, other))
    wide = torch.cat([other] * (1 + 200 // dim), dim=1)  # more features than images: the other way of computing it
    assert linear_cka(wide, wide + torch.randn_like(wide)) < 1


def test_cka_ignores_rotation_and_scale_and_tells_noise():
    rotation = torch.linalg.qr(torch.randn(8, 8))[0]
    assert linear_cka(FEATURES, 3 * FEATURES @ rotation + 2) == pytest.approx(1)
    assert linear_cka(FEATURES, torch.randn(60, 8)) < 0.4


def test_matrix():
    matrix = similarity_matrix({"a": FEATURES, "b": FEATURES * 2, "c": -FEATURES}, "cosine")
    torch.testing.assert_close(matrix, torch.tensor([[1.0, 1, -1], [1, 1, -1], [-1, -1, 1]]).double())
    matrix = similarity_matrix([FEATURES, torch.randn(60, 3)])
    assert torch.equal(matrix, matrix.T)
    assert matrix.diagonal().tolist() == pytest.approx([1, 1])


def test_bad_input():
    with pytest.raises(ValueError, match="of the same images, got 60 and 59"):
        linear_cka(FEATURES, FEATURES[1:])
    with pytest.raises(ValueError, match="needs features of one shape"):
        mean_cosine(FEATURES, FEATURES[:, 1:])
    with pytest.raises(ValueError, match=r"measure must be one of .* got 'l2'"):
        similarity_matrix([FEATURES], "l2")
