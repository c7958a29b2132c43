_base_ = [
    '../_base_/models/resnet20-pad_cifar10.py', '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar_200e.py', '../_base_/default_runtime.py'
]
