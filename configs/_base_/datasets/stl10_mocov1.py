# The 100,000 unlabelled images of STL-10, data/stl10/unlabeled/*.png, in the views of MoCo v1 at 96 px.
_base_ = './imagenet_mocov1.py'

data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)

view_pipeline = [
    dict(type='RandomResizedCrop', scale=96, crop_ratio_range=(0.2, 1.), backend='pillow'),
    dict(type='RandomGrayscale', prob=0.2, keep_channels=True, channel_weights=(0.114, 0.587, 0.2989)),
    dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.4),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
]
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='MultiView', num_views=2, transforms=[view_pipeline]),
    dict(type='PackInputs'),
]

train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/stl10',
        data_prefix='unlabeled',
        with_label=False,
        pipeline=train_pipeline))
