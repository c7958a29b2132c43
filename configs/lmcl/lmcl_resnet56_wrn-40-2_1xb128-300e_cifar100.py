_base_ = '../mcl/plain_resnet56_1xb128-300e_cifar100.py'

model = dict(
    type='mmkdprune.LayerwiseMCL',
    peers=[
        dict(
            backbone=dict(type='mmkdprune.CifarWideResNet', depth=40, widen_factor=2),
            head=dict(
                type='LinearClsHead',
                num_classes=100,
                in_channels=128,
                loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
    ])
