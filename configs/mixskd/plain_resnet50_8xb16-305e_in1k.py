_base_ = [
    '../_base_/models/resnet50_imagenet.py', '../_base_/datasets/imagenet_bs16.py',
    '../_base_/schedules/imagenet_305e.py', '../_base_/default_runtime.py'
]
