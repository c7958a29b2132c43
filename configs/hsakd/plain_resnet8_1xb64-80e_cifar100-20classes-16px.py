_base_ = [
    '../_base_/models/resnet8_cifar100-20classes.py', '../_base_/datasets/cifar100-20classes-16px_bs64.py',
    '../_base_/schedules/cifar100-20classes_80e.py', '../_base_/default_runtime.py'
]
