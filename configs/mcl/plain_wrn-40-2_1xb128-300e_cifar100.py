_base_ = [
    '../_base_/models/wrn-40-2_cifar100.py', '../_base_/datasets/cifar100-pairs_bs128.py',
    '../_base_/schedules/cifar100_300e.py', '../_base_/default_runtime.py'
]
