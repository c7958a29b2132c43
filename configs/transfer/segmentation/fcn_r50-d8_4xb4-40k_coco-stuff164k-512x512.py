_base_ = [
    '../../_base_/models/fcn_r50-d8.py',
    'mmseg::_base_/datasets/coco-stuff164k.py',
    '../../_base_/schedules/segmentation_sgd_40k.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=171),
    auxiliary_head=dict(num_classes=171))
