_base_ = [
    '../_base_/models/mobilenetv2_cifar100.py', '../_base_/datasets/stl10-32px_linear.py',
    '../_base_/schedules/linear_100e.py', '../_base_/default_runtime.py'
]

model = dict(
    type='mmkdprune.LinearProbe',
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.')),
    head=dict(num_classes=10))
