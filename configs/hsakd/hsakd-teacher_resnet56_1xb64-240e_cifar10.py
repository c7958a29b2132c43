_base_ = './plain_resnet56_1xb64-240e_cifar10.py'

model = dict(type='mmkdprune.HSAKD', phase='teacher', teacher_mode='joint')
