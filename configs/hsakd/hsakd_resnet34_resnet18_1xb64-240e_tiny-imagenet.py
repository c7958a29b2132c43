_base_ = './plain_resnet18_1xb64-240e_tiny-imagenet.py'

model = dict(
    type='mmkdprune.HSAKD',
    teacher=dict(
        config='mmkdprune::hsakd/hsakd-teacher_resnet34_1xb64-240e_tiny-imagenet.py',
        checkpoint='work_dirs/hsakd-teacher_resnet34_1xb64-240e_tiny-imagenet/epoch_240.pth'))
