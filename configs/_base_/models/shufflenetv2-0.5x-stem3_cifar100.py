model = dict(
    type='ImageClassifier',
    backbone=dict(type='mmkdprune.CifarShuffleNetV2', widen_factor=0.5, stem_kernel=3),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LinearClsHead', num_classes=100, in_channels=1024, loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
