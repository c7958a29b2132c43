_base_ = [
    '../_base_/models/resnet34_cifar100.py', '../_base_/datasets/tiny-imagenet_bs64.py',
    '../_base_/schedules/cifar100_240e.py', '../_base_/default_runtime.py'
]

model = dict(head=dict(num_classes=200))
