_base_ = './plain_resnet20_1xb64-60e-pairs_cifar100-16px.py'

model = dict(type='mmkdprune.MCL', num_peers=2)
