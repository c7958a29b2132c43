# Blood cells (BCCD), boxes in COCO's form: 205 images for training, 87 for validation, 72 for the test.
# data/bccd holds JPEGImages and annotations_coco (and, for VOC's form, Annotations and ImageSets).
_base_ = 'mmdet::_base_/datasets/coco_detection.py'

data_root = 'data/bccd/'
metainfo = dict(classes=('RBC', 'WBC', 'Platelets'), palette=[(220, 20, 60), (0, 130, 200), (255, 225, 25)])

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(640, 480), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(640, 480), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

dataset = dict(data_root=data_root, metainfo=metainfo, data_prefix=dict(img='JPEGImages/'))

train_dataloader = dict(
    batch_size=4,
    dataset=dict(dataset, ann_file='annotations_coco/instances_train.json', pipeline=train_pipeline))
val_dataloader = dict(
    dataset=dict(dataset, ann_file='annotations_coco/instances_val.json', pipeline=test_pipeline))
test_dataloader = dict(
    dataset=dict(dataset, ann_file='annotations_coco/instances_test.json', pipeline=test_pipeline))
val_evaluator = dict(ann_file=data_root + 'annotations_coco/instances_val.json')
test_evaluator = dict(ann_file=data_root + 'annotations_coco/instances_test.json')
