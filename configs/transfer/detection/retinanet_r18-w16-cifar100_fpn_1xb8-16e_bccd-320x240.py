# The same from a backbone that was pretrained on CIFAR-100, whose images are colours in the order RGB.
_base_ = './retinanet_r18-w16_fpn_1xb8-16e_bccd-320x240.py'

model = dict(
    data_preprocessor=dict(
        mean=[129.3105, 124.1085, 112.404], std=[68.2125, 65.4075, 70.4055], bgr_to_rgb=True),
    backbone=dict(
        init_cfg=dict(checkpoint='work_dirs/mixskd_resnet18-w16_1xb64-30e_cifar100/epoch_30.pth')))
