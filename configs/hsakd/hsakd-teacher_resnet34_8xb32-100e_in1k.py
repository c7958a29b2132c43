_base_ = './plain_resnet34_8xb32-100e_in1k.py'

model = dict(type='mmkdprune.HSAKD', phase='teacher', teacher_mode='joint')
