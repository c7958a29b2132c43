# As MMSegmentation's, on the ResNet of MMPretrain and MMDetection instead of ResNetV1c, whose stem has other keys.
_base_ = 'mmseg::_base_/models/deeplabv3_r50-d8.py'

model = dict(
    pretrained=None,
    backbone=dict(
        type='ResNet',
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/mixskd_resnet50_8xb16-305e_in1k/epoch_305.pth',
            prefix='backbone.')))
