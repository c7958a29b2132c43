dataset_type = 'mmkdprune.DigitScenes'

# Digits are not mirrored: that would be other characters.
train_pipeline = [
    dict(type='LoadImageFromNDArray'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs'),
]
# CocoMetric takes the boxes from the scenes themselves (instances): there is no annotation file.
test_pipeline = [
    dict(type='LoadImageFromNDArray'),
    dict(type='Resize', scale=(128, 128), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'instances')),
]

# Scenes are composed on the fly in a few milliseconds: no worker processes are needed.
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(type=dataset_type, task='detection', split='train', num_scenes=400, size=128, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, task='detection', split='val', num_scenes=200, size=128, pipeline=test_pipeline))
val_evaluator = dict(type='CocoMetric', metric='bbox')
test_dataloader = val_dataloader
test_evaluator = val_evaluator
