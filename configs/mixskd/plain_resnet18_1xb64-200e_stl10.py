_base_ = [
    '../_base_/models/resnet18_cifar100.py', '../_base_/datasets/stl10_bs64.py',
    '../_base_/schedules/small-images_200e.py', '../_base_/default_runtime.py'
]

model = dict(head=dict(num_classes=10))
