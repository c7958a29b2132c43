_base_ = [
    '../_base_/models/moco_resnet18_small.py', '../_base_/datasets/tiny-imagenet_mocov1.py',
    '../_base_/schedules/moco-small_200e.py', '../_base_/default_runtime.py'
]

default_hooks = dict(checkpoint=dict(interval=10))
