_base_ = './plain_resnet20_1xb64-240e_cifar10.py'

model = dict(
    type='mmkdprune.HSAKD',
    teacher=dict(
        config='mmkdprune::hsakd/hsakd-teacher_resnet56_1xb64-240e_cifar10.py',
        checkpoint='work_dirs/hsakd-teacher_resnet56_1xb64-240e_cifar10/epoch_240.pth'))
