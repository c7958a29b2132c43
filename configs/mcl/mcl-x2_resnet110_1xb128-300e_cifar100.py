_base_ = './plain_resnet110_1xb128-300e_cifar100.py'

model = dict(type='mmkdprune.MCL', num_peers=2)
