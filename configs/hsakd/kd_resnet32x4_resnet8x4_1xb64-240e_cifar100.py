_base_ = './plain_resnet8x4_1xb64-240e_cifar100.py'

model = dict(
    type='mmkdprune.KnowledgeDistillation',
    teacher=dict(
        config='mmkdprune::hsakd/plain_resnet32x4_1xb64-240e_cifar100.py',
        checkpoint='work_dirs/plain_resnet32x4_1xb64-240e_cifar100/epoch_240.pth'))
