_base_ = '../mcl/plain_wrn-40-2_1xb128-300e_cifar100.py'

model = dict(type='mmkdprune.LayerwiseMCL', num_peers=2)
