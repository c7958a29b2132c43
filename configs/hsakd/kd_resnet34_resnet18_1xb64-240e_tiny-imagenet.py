_base_ = './plain_resnet18_1xb64-240e_tiny-imagenet.py'

model = dict(
    type='mmkdprune.KnowledgeDistillation',
    teacher=dict(
        config='mmkdprune::hsakd/plain_resnet34_1xb64-240e_tiny-imagenet.py',
        checkpoint='work_dirs/plain_resnet34_1xb64-240e_tiny-imagenet/epoch_240.pth'))
