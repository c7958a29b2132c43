# The views of MoCo v1 at 32 px.
_base_ = '../safe_speed.py'

dataset_type = 'mmkdprune.CIFAR100'
# the normalisation of the MCL papers on the 0..255 scale
data_preprocessor = dict(
    type='SelfSupDataPreprocessor',
    mean=[129.3105, 124.1085, 112.404],
    std=[68.2125, 65.4075, 70.4055],
    to_rgb=False)

view_pipeline = [
    dict(type='RandomResizedCrop', scale=32, crop_ratio_range=(0.2, 1.), backend='pillow'),
    dict(
        type='RandomGrayscale',
        prob=0.2,
        keep_channels=True,
        channel_weights=(0.2989, 0.587, 0.114),
        color_format='rgb'),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
train_pipeline = [
    dict(type='MultiView', num_views=2, transforms=[view_pipeline]),
    dict(type='PackInputs'),
]

# check_md5=True accepts the official files only; any copy in the standard layout does otherwise.
train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    drop_last=True,
    persistent_workers=True,
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type=dataset_type, data_root='data', split='train', check_md5=False, pipeline=train_pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))

# Labels serve to watch the representation, not to learn it.
knn_dataset = dict(type=dataset_type, data_root='data', check_md5=False, pipeline=[dict(type='PackInputs')])
knn_dataloader = dict(batch_size=256, num_workers=2)
custom_hooks = [
    dict(
        type='mmkdprune.KNNEvaluationHook',
        interval=10,
        num_neighbours=200,
        train_dataloader=dict(**knn_dataloader, dataset=dict(**knn_dataset, split='train')),
        val_dataloader=dict(**knn_dataloader, dataset=dict(**knn_dataset, split='test')))
]
