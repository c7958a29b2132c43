_base_ = './plain_resnet20_1xb64-240e_cifar100-75pct.py'

model = dict(
    type='mmkdprune.HSAKD',
    teacher=dict(
        config='mmkdprune::hsakd/hsakd-teacher_resnet56_1xb64-240e_cifar100.py',
        checkpoint='work_dirs/hsakd-teacher_resnet56_1xb64-240e_cifar100/epoch_240.pth'))
