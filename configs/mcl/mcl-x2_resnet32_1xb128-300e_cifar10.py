_base_ = './plain_resnet32_1xb128-300e_cifar10.py'

model = dict(type='mmkdprune.MCL', num_peers=2)
