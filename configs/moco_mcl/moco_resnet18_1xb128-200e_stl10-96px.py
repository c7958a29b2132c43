_base_ = [
    '../_base_/models/moco_resnet18_small.py', '../_base_/datasets/stl10_mocov1.py',
    '../_base_/schedules/moco-small_200e.py', '../_base_/default_runtime.py'
]

# a stem that leaves 3 x 3 pixels of 96: without it, a step costs nine times as much as on CIFAR
model = dict(backbone=dict(_delete_=True, type='ResNet', depth=18, zero_init_residual=False))

default_hooks = dict(checkpoint=dict(interval=10))
