_base_ = [
    '../_base_/models/resnet20-pad_cifar100.py', '../_base_/datasets/cifar100_bs128.py',
    '../_base_/schedules/cifar_200e.py', '../_base_/default_runtime.py'
]
