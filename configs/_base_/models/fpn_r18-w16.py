# Semantic FPN on a narrow ResNet-18: strokes are a few pixels thin, and its maps are the finest, of stride 4.
_base_ = 'mmseg::_base_/models/fpn_r50.py'

model = dict(
    # statistics of the digits that the backbone was trained on; those are grey: either order of colours
    data_preprocessor=dict(mean=[77.8] * 3, std=[81.2] * 3, bgr_to_rgb=False),
    pretrained=None,
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=16,
        stem_channels=16,
        norm_cfg=dict(type='BN'),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mixskd_resnet18-w16_1xb64-20e_digits-32px/epoch_20.pth',
            prefix='backbone.')),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=48, norm_cfg=dict(type='BN')),
    decode_head=dict(
        in_channels=[48, 48, 48, 48], channels=48, dropout_ratio=0, norm_cfg=dict(type='BN')))
