# Classes are characters. Training: 1,028 of them, turned four ways (4,112 classes); validation: few-shot episodes of
# 172 others; test: of 423 others.
dataset_type = 'mmkdprune.Omniglot'
data_root = 'data/omniglot'
# statistics of the training images on the 0..255 scale
data_preprocessor = dict(num_classes=4112, mean=[19.9] * 3, std=[57.3] * 3, to_rgb=False)

train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='PackInputs'),
]
test_pipeline = [dict(type='PackInputs')]

# batched from memory
batched = dict(
    num_workers=0, persistent_workers=False, pin_memory=False, collate_fn=dict(type='mmkdprune.batched_collate'))
train_dataloader = dict(
    batch_size=64,
    dataset=dict(
        type='mmkdprune.BatchedDataset',
        dataset=dict(
            type=dataset_type, data_root=data_root, split='train', rotations=True, pipeline=train_pipeline)),
    sampler=dict(type='DefaultSampler', shuffle=True),
    **batched)
val_dataloader = dict(
    batch_size=256,
    dataset=dict(
        type='mmkdprune.BatchedDataset',
        dataset=dict(type=dataset_type, data_root=data_root, split='val', pipeline=test_pipeline)),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **batched)
test_dataloader = dict(
    batch_size=256,
    dataset=dict(
        type='mmkdprune.BatchedDataset',
        dataset=dict(type=dataset_type, data_root=data_root, split='test', pipeline=test_pipeline)),
    sampler=dict(type='DefaultSampler', shuffle=False),
    **batched)
val_cfg = dict(type='mmkdprune.FeatureValLoop')
test_cfg = dict(type='mmkdprune.FeatureTestLoop')
val_evaluator = dict(
    type='mmkdprune.FewShotAccuracy', num_ways=5, num_shots=[1, 5], classifiers=['nearest_mean'])
test_evaluator = dict(type='mmkdprune.FewShotAccuracy', num_ways=[5, 20], num_shots=[1, 5])
