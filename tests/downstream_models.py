"""Small detectors and segmentors with a ResNet."""

import torch
from mmengine.registry import DATASETS

HEADS = {"depth": 18, "num_stages": 4, "out_indices": (0, 1, 2, 3)}


def detector():
    return {
        "type": "RetinaNet",
        "data_preprocessor": {"type": "DetDataPreprocessor", "pad_size_divisor": 32},
        # frozen stage and BatchNorms in evaluation mode, as in every stock detector
        "backbone": dict(HEADS, type="ResNet", frozen_stages=1, norm_cfg={"type": "BN"}, norm_eval=True),
        "neck": {"type": "FPN", "in_channels": [64, 128, 256, 512], "out_channels": 16, "num_outs": 5},
        "bbox_head": {
            "type": "RetinaHead",
            "num_classes": 2,
            "in_channels": 16,
            "feat_channels": 16,
            "stacked_convs": 1,
            "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0},
        },
        "train_cfg": {
            "assigner": {
                "type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0, "ignore_iof_thr": -1
            },
            "sampler": {"type": "PseudoSampler"},
            "allowed_border": -1,
            "pos_weight": -1,
        },
    }  # fmt: skip


def segmentor():
    norm = {"type": "BN", "requires_grad": True}
    return {
        "type": "EncoderDecoder",
        "data_preprocessor": {"type": "SegDataPreProcessor", "size": (64, 64)},
        "backbone": dict(HEADS, type="ResNetV1c", norm_cfg=norm, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)),
        "decode_head": {
            "type": "FCNHead", "in_channels": 512, "in_index": 3, "channels": 16, "num_convs": 1, "num_classes": 3,
            "norm_cfg": norm, "loss_decode": {"type": "CrossEntropyLoss"},
        },
        "train_cfg": {},
        "test_cfg": {"mode": "whole"},
    }  # fmt: skip


def faster_rcnn():
    """Two stages: a network of proposals, and heads on regions pooled by an operator of MMCV."""
    boxes = {"type": "DeltaXYWHBBoxCoder"}
    proposals = {"nms_pre": 50, "max_per_img": 20, "nms": {"type": "nms", "iou_threshold": 0.7}, "min_bbox_size": 0}
    shared = {name: part for name, part in detector().items() if name in ("data_preprocessor", "backbone", "neck")}
    return {
        **shared,
        "type": "FasterRCNN",
        "rpn_head": {
            "type": "RPNHead", "in_channels": 16, "feat_channels": 16, "bbox_coder": boxes,
            "anchor_generator": {
                "type": "AnchorGenerator", "scales": [8], "ratios": [0.5, 1.0], "strides": [4, 8, 16, 32, 64]
            },
        },
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": {
                "type": "SingleRoIExtractor", "roi_layer": {"type": "RoIAlign", "output_size": 7, "sampling_ratio": 0},
                "out_channels": 16, "featmap_strides": [4, 8, 16, 32],
            },
            "bbox_head": {"type": "Shared2FCBBoxHead", "in_channels": 16, "fc_out_channels": 8, "num_classes": 2},
        },
        "train_cfg": {
            "rpn": {
                "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.7, "neg_iou_thr": 0.3, "min_pos_iou": 0.3},
                "sampler": {
                    "type": "RandomSampler", "num": 32, "pos_fraction": 0.5, "neg_pos_ub": -1,
                    "add_gt_as_proposals": False,
                },
                "allowed_border": -1,
                "pos_weight": -1,
            },
            "rpn_proposal": proposals,
            "rcnn": {
                "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5, "min_pos_iou": 0.5},
                "sampler": {"type": "RandomSampler", "num": 16, "pos_fraction": 0.25, "neg_pos_ub": -1},
                "pos_weight": -1,
            },
        },
        "test_cfg": {
            "rpn": proposals,
            "rcnn": {"score_thr": 0.05, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 10},
        },
    }  # fmt: skip


def deeplab():
    """DeepLabV3 with an auxiliary head on the third stage."""
    norm = {"type": "BN", "requires_grad": True}
    head = {"channels": 8, "num_classes": 3, "norm_cfg": norm, "align_corners": False}
    return {
        **segmentor(),
        "decode_head": {"type": "ASPPHead", "in_channels": 512, "in_index": 3, "dilations": (1, 2, 3), **head},
        "auxiliary_head": {"type": "FCNHead", "in_channels": 256, "in_index": 2, "num_convs": 1, **head},
    }


@DATASETS.register_module(force=True)
class ToyScenes(torch.utils.data.Dataset):
    """Six random images with two boxes, or a random map of classes."""

    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
        if self.kind == "mmdet":
            from mmdet.structures import DetDataSample
            from mmdet.structures.bbox import HorizontalBoxes
            from mmengine.structures import InstanceData

            sample = DetDataSample(
                metainfo={"img_shape": (64, 64), "batch_input_shape": (64, 64), "pad_shape": (64, 64)}
            )
            boxes = torch.tensor([[2.0, 2, 40, 40], [20, 10, 60, 50]])
            sample.gt_instances = InstanceData(bboxes=HorizontalBoxes(boxes), labels=torch.tensor([0, 1]))
        else:
            from mmengine.structures import PixelData
            from mmseg.structures import SegDataSample

            sample = SegDataSample(metainfo={"img_shape": (64, 64)})
            labels = torch.randint(0, 3, (1, 64, 64), generator=generator)
            sample.gt_sem_seg = PixelData(data=labels)
        return {"inputs": image, "data_samples": sample}
