dataset_type = 'mmkdprune.Digits'
# statistics of the training images on the 0..255 scale
data_preprocessor = dict(type='SelfSupDataPreprocessor', mean=[77.8] * 3, std=[81.2] * 3, to_rgb=False)

# The scans are grey, and a mirrored digit is none: crops, small rotations, brightness and contrast.
view_pipeline = [
    dict(type='RandomResizedCrop', scale=16, crop_ratio_range=(0.4, 1.), backend='pillow'),
    dict(type='Rotate', magnitude_range=(0, 20), prob=0.8, pad_val=0, interpolation='bilinear'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4),
]
train_pipeline = [
    dict(type='MultiView', num_views=2, transforms=[view_pipeline]),
    dict(type='PackInputs'),
]

# The whole set is in memory and tiny: worker processes would cost more than they bring.
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    drop_last=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(type=dataset_type, split='train', size=16, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))

# Labels serve to watch the representation, not to learn it.
knn_dataset = dict(type=dataset_type, size=16, pipeline=[dict(type='PackInputs')])
knn_dataloader = dict(batch_size=256, num_workers=0)
custom_hooks = [
    dict(type='mmkdprune.ChannelsLastHook'),
    dict(
        type='mmkdprune.KNNEvaluationHook',
        interval=5,
        at_start=True,
        train_dataloader=dict(**knn_dataloader, dataset=dict(**knn_dataset, split='train')),
        val_dataloader=dict(**knn_dataloader, dataset=dict(**knn_dataset, split='test')))
]
