_base_ = '../mcl/plain_resnet110_1xb128-300e_cifar100.py'

model = dict(type='mmkdprune.LayerwiseMCL', num_peers=2)
