_base_ = [
    '../../_base_/models/retinanet_r18-w16_fpn.py',
    '../../_base_/datasets/digit-scenes_detection_bs8.py',
    '../../_base_/schedules/digit-scenes_detection_8e.py',
    'mmdet::_base_/default_runtime.py',
]

model = dict(bbox_head=dict(num_classes=10))

default_hooks = dict(checkpoint=dict(interval=2, max_keep_ckpts=2), logger=dict(interval=10))
