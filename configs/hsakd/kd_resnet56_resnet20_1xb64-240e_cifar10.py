_base_ = './plain_resnet20_1xb64-240e_cifar10.py'

model = dict(
    type='mmkdprune.KnowledgeDistillation',
    teacher=dict(
        config='mmkdprune::hsakd/plain_resnet56_1xb64-240e_cifar10.py',
        checkpoint='work_dirs/plain_resnet56_1xb64-240e_cifar10/epoch_240.pth'))
