# miniImageNet: 64 classes for training, 16 for validation and 20 for testing, 600 images each, at 84 px
# (Vinyals et al., NeurIPS 2016; split: Ravi and Larochelle, ICLR 2017)
dataset_type = 'mmkdprune.MiniImageNet'
data_root = 'data/mini-imagenet'
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)

test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='ResizeEdge', scale=96, edge='short'),
    dict(type='CenterCrop', crop_size=84),
    dict(type='PackInputs'),
]
loader = dict(
    batch_size=128, num_workers=2, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, split='fewshot_train', pipeline=test_pipeline), **loader)
val_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, split='fewshot_val', pipeline=test_pipeline), **loader)
test_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, split='fewshot_test', pipeline=test_pipeline), **loader)
