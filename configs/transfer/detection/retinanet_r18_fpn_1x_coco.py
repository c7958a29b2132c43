_base_ = 'mmdet::retinanet/retinanet_r18_fpn_1x_coco.py'

model = dict(
    backbone=dict(
        init_cfg=dict(
            checkpoint='work_dirs/hsakd_resnet34_resnet18_8xb32-100e_in1k/epoch_100.pth',
            prefix='backbone.')))
