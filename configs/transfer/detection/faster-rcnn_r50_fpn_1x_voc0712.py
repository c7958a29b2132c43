_base_ = 'mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py'

model = dict(
    backbone=dict(
        init_cfg=dict(checkpoint='work_dirs/mixskd_resnet50_8xb16-305e_in1k/epoch_305.pth', prefix='backbone.')))
