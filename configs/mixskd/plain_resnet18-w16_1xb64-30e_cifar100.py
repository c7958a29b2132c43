_base_ = [
    '../_base_/models/resnet18-w16_cifar100.py', '../_base_/datasets/cifar100-batched_bs64.py',
    '../_base_/schedules/cifar100_30e.py', '../_base_/default_runtime.py'
]
