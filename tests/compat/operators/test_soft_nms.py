import numpy as np
import pytest
import torch
from mmcv.ops import nms_match, soft_nms
from operator_references import greedy_soft_nms, overlap, random_boxes

from mmkdprune.compat.operators import soft_nms as module


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("min_score", [1e-3, 0.2])
def test_soft_nms(method, offset, min_score, monkeypatch):
    monkeypatch.setattr(module, "BLOCK", 50)  # several blocks of pairs
    generator = torch.Generator().manual_seed(0)
    boxes, scores = random_boxes(80, 60, seed=4), torch.rand(80, generator=generator)
    dets, kept = soft_nms(boxes, scores, 0.3, 0.5, min_score, method, offset)
    taken = greedy_soft_nms(boxes.tolist(), scores.tolist(), 0.3, 0.5, min_score, method, offset)
    assert len(taken) > 10
    assert kept.tolist() == [index for index, _ in taken]
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for _, score in taken]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dets[:, :4], boxes[kept], rtol=0, atol=0)
    lowered = dets[:, 4] < scores[kept]
    assert bool(lowered.any()) == (method != "naive")


def test_the_best_box_stays_whatever_its_score():
    boxes = torch.tensor([[0.0, 0, 2, 2], [5, 5, 7, 7]])
    dets, kept = soft_nms(boxes, torch.tensor([0.01, 0.02]), min_score=0.5)
    assert kept.tolist() == [1]
    assert dets[0, 4] == pytest.approx(0.02)


def test_equal_boxes_and_scores():
    boxes, scores = torch.ones(5, 4).cumsum(1), torch.full((5,), 0.5)
    dets, kept = soft_nms(boxes, scores, 0.3, 0.5, 1e-5, "gaussian")
    assert sorted(kept.tolist()) == [0, 1, 2, 3, 4]
    torch.testing.assert_close(dets[:, 4], 0.5 * torch.exp(-2.0 * torch.arange(5)), rtol=1e-4, atol=1e-6)


def test_boxes_without_extent_touch_nothing():
    boxes = torch.zeros(3, 4)
    assert soft_nms(boxes, torch.tensor([0.3, 0.2, 0.1]))[1].tolist() == [0, 1, 2]


def test_no_boxes():
    dets, kept = soft_nms(torch.empty(0, 4), torch.empty(0))
    assert dets.shape == (0, 5)
    assert len(kept) == 0
    assert nms_match(torch.empty(0, 5), 0.5) == []


def test_arrays_in_arrays_out():
    boxes, scores = random_boxes(10, 20, seed=1), torch.rand(10)
    dets, kept = soft_nms(boxes.numpy(), scores.numpy())
    assert isinstance(dets, np.ndarray)
    assert isinstance(kept, np.ndarray)


@pytest.mark.parametrize("threshold", [0.2, 0.4])
def test_groups(threshold):
    boxes, scores = random_boxes(80, 15, seed=6), torch.rand(80, generator=torch.Generator().manual_seed(2))
    groups = [group.tolist() for group in nms_match(torch.cat((boxes, scores[:, None]), dim=1), threshold)]
    left = sorted(range(80), key=lambda index: -scores[index])
    expected = []
    while left:
        near = [i for i in left[1:] if overlap(boxes[left[0]].tolist(), boxes[i].tolist(), 0) >= threshold]
        expected.append([left[0], *near])
        left = [i for i in left[1:] if i not in near]
    assert groups == expected
    assert max(map(len, groups)) > 2


def test_a_box_at_the_threshold_joins_the_group():
    dets = torch.tensor([[0.0, 0, 2, 2, 0.9], [0, 1, 2, 3, 0.8]])
    third = float(np.float32(1) / np.float32(3))
    assert [group.tolist() for group in nms_match(dets, third)] == [[0, 1]]
