_base_ = '../mcl/plain_shufflenetv2-1x_1xb128-300e_cifar100.py'

model = dict(
    type='mmkdprune.LayerwiseMCL',
    peers=[
        dict(
            backbone=dict(type='mmkdprune.CifarResNet', depth=110),
            head=dict(
                type='LinearClsHead',
                num_classes=100,
                in_channels=256,
                loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
    ])
