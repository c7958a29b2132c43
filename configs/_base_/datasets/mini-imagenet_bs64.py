# All 100 classes at 84 px: 500 images of each for training, 100 for testing.
_base_ = './tiny-imagenet_bs64.py'

dataset_type = 'mmkdprune.MiniImageNet'
data_root = 'data/mini-imagenet'
data_preprocessor = dict(num_classes=100)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='RandomResizedCrop', scale=84),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
# copies of the set have images of 84 px or of ImageNet's sizes
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=96, edge='short'),
    dict(type='CenterCrop', crop_size=84),
    dict(type='PackInputs'),
]

train_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, split='test', pipeline=test_pipeline))
test_dataloader = val_dataloader
