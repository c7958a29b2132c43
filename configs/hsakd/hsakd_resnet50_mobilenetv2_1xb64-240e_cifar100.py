_base_ = './plain_mobilenetv2_1xb64-240e_cifar100.py'

model = dict(
    type='mmkdprune.HSAKD',
    teacher=dict(
        config='mmkdprune::hsakd/hsakd-teacher_resnet50_1xb64-240e_cifar100.py',
        checkpoint='work_dirs/hsakd-teacher_resnet50_1xb64-240e_cifar100/epoch_240.pth'))
