_base_ = [
    '../_base_/models/moco_resnet18_imagenet.py', '../_base_/datasets/imagenet_mocov1.py',
    '../_base_/schedules/moco-imagenet_200e.py', '../_base_/default_runtime.py'
]

default_hooks = dict(checkpoint=dict(interval=5))
