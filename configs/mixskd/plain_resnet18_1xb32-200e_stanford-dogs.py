_base_ = [
    '../_base_/models/resnet18_imagenet.py', '../_base_/datasets/stanford-dogs_bs32.py',
    '../_base_/schedules/fine-grained_200e.py', '../_base_/default_runtime.py'
]

model = dict(head=dict(num_classes=120))
