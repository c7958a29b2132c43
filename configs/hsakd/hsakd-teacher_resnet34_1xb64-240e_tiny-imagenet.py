_base_ = './plain_resnet34_1xb64-240e_tiny-imagenet.py'

model = dict(type='mmkdprune.HSAKD', phase='teacher', teacher_mode='joint')
