# Small enough for a CPU, from a backbone that was pretrained on digits.
_base_ = [
    '../../_base_/models/retinanet_r18-w16_fpn.py',
    '../../_base_/datasets/bccd_detection.py',
    '../../_base_/schedules/digit-scenes_detection_8e.py',
    'mmdet::_base_/default_runtime.py',
]

# cells of 15 to 120 pixels
model = dict(
    neck=dict(num_outs=4),
    bbox_head=dict(num_classes=3, anchor_generator=dict(strides=[8, 16, 32, 64])))

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(320, 240), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(batch_size=8, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))

# 26 iterations an epoch: 2 epochs of linear warm-up, then cosine by iteration
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=2, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=14, eta_min=0, by_epoch=True, begin=2, end=16, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=16, val_interval=4)

default_hooks = dict(checkpoint=dict(interval=4, max_keep_ckpts=2), logger=dict(interval=5))
