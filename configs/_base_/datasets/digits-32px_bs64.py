_base_ = './digits_bs64.py'

train_dataloader = dict(
    dataset=dict(
        size=32, pipeline=[
            dict(type='RandomCrop', crop_size=32, padding=4),
            dict(type='PackInputs'),
        ]))
val_dataloader = dict(dataset=dict(size=32))
test_dataloader = dict(dataset=dict(size=32))
