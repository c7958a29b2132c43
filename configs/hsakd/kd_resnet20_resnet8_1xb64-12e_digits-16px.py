_base_ = './plain_resnet8_1xb64-12e_digits-16px.py'

model = dict(
    type='mmkdprune.KnowledgeDistillation',
    teacher=dict(
        config='mmkdprune::hsakd/plain_resnet20_1xb64-12e_digits-16px.py',
        checkpoint='work_dirs/plain_resnet20_1xb64-12e_digits-16px/epoch_12.pth'))
