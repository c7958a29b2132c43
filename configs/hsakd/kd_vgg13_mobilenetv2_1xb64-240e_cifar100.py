_base_ = './plain_mobilenetv2_1xb64-240e_cifar100.py'

model = dict(
    type='mmkdprune.KnowledgeDistillation',
    teacher=dict(
        config='mmkdprune::hsakd/plain_vgg13_1xb64-240e_cifar100.py',
        checkpoint='work_dirs/plain_vgg13_1xb64-240e_cifar100/epoch_240.pth'))
