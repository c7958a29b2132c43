_base_ = [
    '../_base_/models/resnet18_imagenet.py', '../_base_/datasets/mini-imagenet_bs64.py',
    '../_base_/schedules/small-images_200e.py', '../_base_/default_runtime.py'
]

model = dict(head=dict(num_classes=100))
