# All of CIFAR-100, halved when the data are read (every pixel is the mean of four)
_base_ = './cifar100-batched_bs64.py'

halve = dict(type='Resize', scale=(16, 16), interpolation='area')
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            pipeline=[
                halve,
                dict(type='RandomCrop', crop_size=16, padding=2),
                dict(type='RandomFlip', prob=0.5, direction='horizontal'),
                dict(type='PackInputs'),
            ])))
val_dataloader = dict(dataset=dict(dataset=dict(pipeline=[halve, dict(type='PackInputs')])))
test_dataloader = val_dataloader
