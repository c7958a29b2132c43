_base_ = [
    '../_base_/models/resnet18_cifar100.py', '../_base_/datasets/cifar10_bs64.py',
    '../_base_/schedules/cifar100_205e.py', '../_base_/default_runtime.py'
]

model = dict(head=dict(num_classes=10))
