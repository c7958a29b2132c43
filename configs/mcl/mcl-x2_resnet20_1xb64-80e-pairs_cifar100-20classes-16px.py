_base_ = './plain_resnet20_1xb64-80e-pairs_cifar100-20classes-16px.py'

model = dict(type='mmkdprune.MCL', num_peers=2)
