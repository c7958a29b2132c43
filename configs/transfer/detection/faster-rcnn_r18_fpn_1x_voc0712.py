_base_ = './faster-rcnn_r50_fpn_1x_voc0712.py'

model = dict(
    backbone=dict(
        depth=18,
        init_cfg=dict(checkpoint='work_dirs/hsakd_resnet34_resnet18_8xb32-100e_in1k/epoch_100.pth')),
    neck=dict(in_channels=[64, 128, 256, 512]))
