# RetinaNet for objects of 10 to 60 pixels: a narrow pyramid and a head of two convolutions.
_base_ = 'mmdet::_base_/models/retinanet_r50_fpn.py'

model = dict(
    # statistics of the digits that the backbone was trained on; those are grey: either order of colours
    data_preprocessor=dict(mean=[77.8] * 3, std=[81.2] * 3, bgr_to_rgb=False),
    backbone=dict(
        depth=18,
        base_channels=16,
        stem_channels=16,
        # trained on few small grey images: all layers learn, as they must where they start from random weights
        frozen_stages=-1,
        norm_eval=False,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mixskd_resnet18-w16_1xb64-20e_digits-32px/epoch_20.pth',
            prefix='backbone.')),
    neck=dict(
        in_channels=[16, 32, 64, 128],
        out_channels=64,
        start_level=1,
        add_extra_convs=False,
        num_outs=3,
        norm_cfg=dict(type='BN')),
    bbox_head=dict(
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        norm_cfg=dict(type='BN'),
        anchor_generator=dict(octave_base_scale=2, strides=[8, 16, 32])),
    test_cfg=dict(nms_pre=300))
