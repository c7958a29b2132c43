_base_ = '../mcl/plain_wrn-40-2_1xb128-300e_cifar100.py'

model = dict(
    type='mmkdprune.LayerwiseMCL',
    peers=[
        dict(
            backbone=dict(type='mmkdprune.CifarWideResNet', depth=28, widen_factor=4),
            head=dict(
                type='LinearClsHead',
                num_classes=100,
                in_channels=256,
                loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
    ])
