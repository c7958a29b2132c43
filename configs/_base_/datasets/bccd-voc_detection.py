# Blood cells (BCCD), boxes in VOC's form: data/bccd holds JPEGImages, Annotations and ImageSets/Main.
_base_ = './bccd_detection.py'

dataset = dict(
    _delete_=True,
    type='VOCDataset',
    data_root=_base_.data_root,
    metainfo=_base_.metainfo,
    data_prefix=dict(sub_data_root=''))

train_dataloader = dict(
    dataset=dict(
        dataset,
        ann_file='ImageSets/Main/train.txt',
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=_base_.train_pipeline))
val_dataloader = dict(
    dataset=dict(
        dataset, ann_file='ImageSets/Main/val.txt', test_mode=True, pipeline=_base_.test_pipeline))
test_dataloader = dict(
    dataset=dict(
        dataset, ann_file='ImageSets/Main/test.txt', test_mode=True, pipeline=_base_.test_pipeline))
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP', eval_mode='area')
test_evaluator = val_evaluator
