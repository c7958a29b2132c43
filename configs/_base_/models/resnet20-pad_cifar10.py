# the pruning papers' network: shortcuts without parameters
model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkdprune.CifarResNet', depth=20, shortcut='pad'),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=10, in_channels=64, loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
