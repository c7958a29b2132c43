_base_ = './plain_wrn-40-2_1xb64-240e_cifar100.py'

model = dict(type='mmkdprune.HSAKD', phase='teacher', teacher_mode='joint')
