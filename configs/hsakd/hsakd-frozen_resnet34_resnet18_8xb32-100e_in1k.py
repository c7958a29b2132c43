_base_ = './plain_resnet18_8xb32-100e_in1k.py'

model = dict(
    type='mmkdprune.HSAKD',
    teacher=dict(
        config='mmkdprune::hsakd/hsakd-teacher-frozen_resnet34_8xb32-100e_in1k.py',
        checkpoint='work_dirs/hsakd-teacher-frozen_resnet34_8xb32-100e_in1k/epoch_100.pth'))
