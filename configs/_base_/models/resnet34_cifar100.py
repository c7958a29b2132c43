model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet_CIFAR', depth=34, zero_init_residual=False),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=100, in_channels=512, loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
