import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, bbox_overlaps, nms, soft_nms
from operator_references import greedy_nms, overlap, random_boxes


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("threshold", [0.2, 0.5])
def test_nms(offset, threshold):
    boxes, scores = random_boxes(60, 15, seed=offset), torch.rand(60, generator=torch.Generator().manual_seed(1))
    expected = greedy_nms(boxes.tolist(), scores.tolist(), threshold, offset)
    assert 5 < len(expected) < 60
    dets, kept = nms(boxes, scores, threshold, offset=offset)
    assert kept.tolist() == expected
    torch.testing.assert_close(dets, torch.cat((boxes, scores[:, None]), dim=1)[kept], rtol=0, atol=0)


def test_the_offset_decides_where_boxes_share_an_edge():
    boxes = torch.tensor([[0.0, 0, 3, 3], [0, 2, 3, 5], [20, 20, 20, 20], [20, 20, 20, 20]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    # 3 of 15 pixels shared without the offset, 8 of 24 with it; boxes without extent are one pixel with it
    assert nms(boxes, scores, 0.25)[1].tolist() == [0, 1, 2, 3]
    assert nms(boxes, scores, 0.25, offset=1)[1].tolist() == [0, 2]


def test_a_box_at_the_threshold_stays():
    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 1, 2, 3]]), torch.tensor([0.9, 0.8])
    third = float(np.float32(1) / np.float32(3))
    assert len(nms(boxes, scores, third)[1]) == 2
    assert len(nms(boxes, scores, third - 1e-6)[1]) == 1


def test_nms_options():
    boxes, scores = random_boxes(40, 30, seed=3), torch.linspace(0.01, 1, 40)
    kept = nms(boxes, scores, 0.5)[1]
    assert nms(boxes, scores, 0.5, max_num=3)[1].tolist() == kept[:3].tolist()
    high = nms(boxes, scores, 0.5, score_threshold=0.5)[1]
    assert high.tolist() == [index for index in kept.tolist() if scores[index] > 0.5]
    dets, indices = nms(boxes.numpy(), scores.numpy(), 0.5)
    assert isinstance(dets, np.ndarray)
    assert indices.tolist() == kept.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_nms_in_other_types(dtype):
    boxes, scores = random_boxes(40, 30, seed=3).round(), torch.arange(40) / 64
    expected = nms(boxes, scores, 0.41)[1].tolist()
    assert nms(boxes.to(dtype), scores.to(dtype), 0.41)[1].tolist() == expected
    assert nms(boxes.to(dtype), scores, 0.41)[1].tolist() == expected


def test_no_boxes():
    dets, kept = nms(torch.empty(0, 4), torch.empty(0), 0.5)
    assert dets.shape == (0, 5)
    assert kept.shape == (0,)
    assert kept.dtype == torch.long
    assert bbox_overlaps(torch.empty(0, 4), torch.empty(3, 4)).shape == (0, 3)


@pytest.mark.parametrize("split_thr", [10000, 1])
@pytest.mark.parametrize("kind", ["nms", "soft_nms"])
def test_batched_nms_works_class_by_class(kind, split_thr):
    generator = torch.Generator().manual_seed(0)
    boxes, scores = random_boxes(60, 40, seed=5), torch.rand(60, generator=generator)
    classes = torch.randint(0, 3, (60,), generator=generator)
    settings = {"type": kind, "iou_threshold": 0.4, "split_thr": split_thr}
    dets, kept = batched_nms(boxes, scores, classes, settings)
    expected = []
    for label in range(3):
        members = torch.nonzero(classes == label)[:, 0]
        part, indices = {"nms": nms, "soft_nms": soft_nms}[kind](boxes[members], scores[members], 0.4)
        expected += [
            (score, index) for score, index in zip(part[:, 4].tolist(), members[indices].tolist(), strict=True)
        ]
    expected.sort(reverse=True)
    assert kept.tolist() == [index for _, index in expected]
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for score, _ in expected]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dets[:, :4], boxes[kept])
    agnostic = batched_nms(boxes, scores, classes, {"iou_threshold": 0.4}, class_agnostic=True)[1]
    assert agnostic.tolist() == nms(boxes, scores, 0.4)[1].tolist()


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("mode", ["iou", "iof"])
@pytest.mark.parametrize("offset", [0, 1])
def test_overlaps(mode, aligned, offset):
    one, other = random_boxes(7, 20, seed=1), random_boxes(7 if aligned else 5, 20, seed=2)
    ious = bbox_overlaps(one, other, mode=mode, aligned=aligned, offset=offset)
    pairs = zip(one, other, strict=True) if aligned else ((a, b) for a in one for b in other)
    expected = torch.tensor([overlap(a.tolist(), b.tolist(), offset, mode == "iou") for a, b in pairs])
    assert (expected > 0).any()
    torch.testing.assert_close(ious.flatten(), expected, rtol=1e-5, atol=1e-6)
