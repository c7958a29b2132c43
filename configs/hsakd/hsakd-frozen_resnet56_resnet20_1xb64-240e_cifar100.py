_base_ = './plain_resnet20_1xb64-240e_cifar100.py'

model = dict(
    type='mmkdprune.HSAKD',
    teacher=dict(
        config='mmkdprune::hsakd/hsakd-teacher-frozen_resnet56_1xb64-100e_cifar100.py',
        checkpoint='work_dirs/hsakd-teacher-frozen_resnet56_1xb64-100e_cifar100/epoch_100.pth'))
