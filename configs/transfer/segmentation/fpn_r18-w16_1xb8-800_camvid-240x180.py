# Small enough for a CPU, from a backbone that was pretrained on digits.
_base_ = [
    '../../_base_/models/fpn_r18-w16.py',
    '../../_base_/datasets/camvid_240x180.py',
    '../../_base_/schedules/digit-scenes_segmentation_400.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(data_preprocessor=dict(size=(160, 224)), decode_head=dict(num_classes=11))

# 17 passes over 367 images: 80 iterations of linear warm-up, then cosine
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=80),
    dict(type='CosineAnnealingLR', T_max=720, eta_min=0, by_epoch=False, begin=80, end=800),
]
train_cfg = dict(max_iters=800, val_interval=200)

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=200, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'))
