model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkdprune.CifarWideResNet', depth=28, widen_factor=4),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=100, in_channels=256, loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
