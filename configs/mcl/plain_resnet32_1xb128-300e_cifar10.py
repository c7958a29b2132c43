_base_ = [
    '../_base_/models/resnet32_cifar100.py', '../_base_/datasets/cifar10_bs128.py',
    '../_base_/schedules/cifar100_300e.py', '../_base_/default_runtime.py'
]

model = dict(head=dict(num_classes=10))
