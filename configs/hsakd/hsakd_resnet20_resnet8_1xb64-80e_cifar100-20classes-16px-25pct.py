_base_ = './plain_resnet8_1xb64-80e_cifar100-20classes-16px-25pct.py'

model = dict(
    type='mmkdprune.HSAKD',
    teacher=dict(
        config='mmkdprune::hsakd/hsakd-teacher_resnet20_1xb64-80e_cifar100-20classes-16px.py',
        checkpoint='work_dirs/hsakd-teacher_resnet20_1xb64-80e_cifar100-20classes-16px/epoch_80.pth'))
