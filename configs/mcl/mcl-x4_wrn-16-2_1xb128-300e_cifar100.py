_base_ = './plain_wrn-16-2_1xb128-300e_cifar100.py'

model = dict(type='mmkdprune.MCL', num_peers=4, shared_stages=1)
