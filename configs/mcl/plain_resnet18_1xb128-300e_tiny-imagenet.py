_base_ = [
    '../_base_/models/resnet18_cifar100.py', '../_base_/datasets/tiny-imagenet-pairs_bs128.py',
    '../_base_/schedules/cifar100_300e.py', '../_base_/default_runtime.py'
]

model = dict(head=dict(num_classes=200))
