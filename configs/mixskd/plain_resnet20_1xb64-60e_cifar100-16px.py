_base_ = [
    '../_base_/models/resnet20_cifar100.py', '../_base_/datasets/cifar100-16px_bs64.py',
    '../_base_/schedules/cifar100_60e.py', '../_base_/default_runtime.py'
]
