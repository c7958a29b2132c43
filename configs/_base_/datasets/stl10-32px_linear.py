# STL-10 at 32 px, as in HSAKD's transfer experiments: 5,000 and 8,000 images
_base_ = './stl10_bs64.py'

data_preprocessor = dict(mean=[127.5] * 3, std=[127.5] * 3)

train_pipeline = [
    dict(type='RandomResizedCrop', scale=32, backend='pillow'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
test_pipeline = [
    dict(type='Resize', scale=(32, 32), backend='pillow'),
    dict(type='PackInputs'),
]

train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
