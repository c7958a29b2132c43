import pytest
import torch

from mmkdprune.models.utils import class_logits, joint_target, rotate4


def test_order_of_rotations_and_labels():
    image = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    images, labels = rotate4(torch.stack([image, image + 10])[:, None], torch.tensor([1, 2]))
    expected = [[0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1]]
    assert images.flatten(1).tolist() == expected + [[pixel + 10 for pixel in row] for row in expected]
    assert labels.tolist() == [4, 5, 6, 7, 8, 9, 10, 11]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_rot90_of_every_image_and_keeps_the_memory_format(memory_format):
    images = torch.randn(3, 5, 6, 6).to(memory_format=memory_format)
    rotated = rotate4(images)
    slow = torch.stack([torch.rot90(image, k, (1, 2)) for image in images for k in range(4)])
    assert torch.equal(rotated, slow)
    assert rotated.is_contiguous(memory_format=memory_format)


def test_class_logits_sum_the_four_rotations_of_a_class():
    joint = torch.arange(24.0).reshape(2, 12)
    assert class_logits(joint).tolist() == [[6.0, 22.0, 38.0], [54.0, 70.0, 86.0]]
    assert class_logits(torch.eye(8)).argmax(1).tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert joint_target(torch.tensor([0, 1])).tolist() == list(range(8))


@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (3, 16, 16)])
def test_images_must_be_square(shape):
    with pytest.raises(ValueError, match=r"rotate4 needs square images .* got \("):
        rotate4(torch.zeros(shape))
