_base_ = [
    '../_base_/models/moco_resnet8_digits.py', '../_base_/datasets/digits_mocov1.py',
    '../_base_/schedules/moco-digits_40e.py', '../_base_/default_runtime.py'
]

default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=10))
