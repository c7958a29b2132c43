_base_ = [
    '../_base_/models/resnet18_imagenet.py', '../_base_/datasets/imagenet_linear.py',
    '../_base_/schedules/linear-moco_100e.py', '../_base_/default_runtime.py'
]

model = dict(
    type='mmkdprune.LinearProbe',
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.')))
