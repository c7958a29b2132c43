_base_ = [
    '../../_base_/models/fpn_r18-w16.py',
    '../../_base_/datasets/digit-scenes_segmentation_bs8.py',
    '../../_base_/schedules/digit-scenes_segmentation_400.py',
    'mmseg::_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(128, 128)),
    # nine pixels of ten are background; with class weights MMSegmentation takes no padded images, so sizes must agree
    decode_head=dict(num_classes=11, loss_decode=dict(class_weight=[0.2] + [1.0] * 10)))

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=100, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook'))
