_base_ = [
    '../_base_/models/vgg13_cifar100.py', '../_base_/datasets/cifar100_bs64.py',
    '../_base_/schedules/cifar100_100e.py', '../_base_/default_runtime.py'
]

model = dict(
    type='mmkdprune.HSAKD',
    phase='teacher',
    teacher_mode='frozen',
    pretrained=dict(
        config='mmkdprune::hsakd/plain_vgg13_1xb64-240e_cifar100.py',
        checkpoint='work_dirs/plain_vgg13_1xb64-240e_cifar100/epoch_240.pth'))
