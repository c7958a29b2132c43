_base_ = [
    '../_base_/models/resnet8_digits.py', '../_base_/datasets/digits_linear.py',
    '../_base_/schedules/linear_100e.py', '../_base_/default_runtime.py'
]

model = dict(
    type='mmkdprune.LinearProbe',
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='', prefix='backbone.')))
