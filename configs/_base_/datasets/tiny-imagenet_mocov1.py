# The 100,000 training images of Tiny-ImageNet, data/tiny-imagenet-200/train/<class>/images/*.JPEG, in the views of MoCo
# v1 at 64 px; their labels are not used.
_base_ = './imagenet_mocov1.py'

crop = dict(type='RandomResizedCrop', scale=64, crop_ratio_range=(0.2, 1.), backend='pillow')
multi_view = dict(type='MultiView', num_views=2, transforms=[[crop, *_base_.view_pipeline[1:]]])

train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='data/tiny-imagenet-200',
        data_prefix='train',
        pipeline=[dict(type='LoadImageFromFile'), multi_view, dict(type='PackInputs')]))
