# The 100,000 unlabelled images of STL-10, data/stl10/unlabeled/*.png, in the views of MoCo v1 at 96 px.
_base_ = './imagenet_mocov1.py'

data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)

crop = dict(type='RandomResizedCrop', scale=96, crop_ratio_range=(0.2, 1.), backend='pillow')
multi_view = dict(type='MultiView', num_views=2, transforms=[[crop, *_base_.view_pipeline[1:]]])

train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/stl10',
        data_prefix='unlabeled',
        with_label=False,
        pipeline=[dict(type='LoadImageFromFile'), multi_view, dict(type='PackInputs')]))
