_base_ = './plain_vgg13_1xb64-240e_cifar100.py'

model = dict(type='mmkdprune.HSAKD', phase='teacher', teacher_mode='joint')
