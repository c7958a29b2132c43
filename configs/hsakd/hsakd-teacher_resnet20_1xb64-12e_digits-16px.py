_base_ = './plain_resnet20_1xb64-12e_digits-16px.py'

model = dict(type='mmkdprune.HSAKD', phase='teacher', teacher_mode='joint')
