_base_ = [
    '../_base_/models/resnet34_imagenet.py', '../_base_/datasets/imagenet_bs32.py',
    '../_base_/schedules/imagenet-nesterov_90e.py', '../_base_/default_runtime.py'
]
