dataset_type = 'mmkdprune.DigitScenes'

# Digits are not mirrored: that would be other characters. The map of classes comes with the image.
train_pipeline = [
    dict(type='LoadImageFromNDArray'),
    dict(type='PackSegInputs'),
]
test_pipeline = train_pipeline

# Scenes are composed on the fly in a few milliseconds: no worker processes are needed.
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type=dataset_type, task='segmentation', split='train', num_scenes=400, size=128, pipeline=train_pipeline))
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(type=dataset_type, task='segmentation', split='val', num_scenes=200, size=128, pipeline=test_pipeline))
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_dataloader = val_dataloader
test_evaluator = val_evaluator
