_base_ = '../mcl/plain_wrn-16-2_1xb128-300e_cifar100.py'

model = dict(type='mmkdprune.LayerwiseMCL', num_peers=2)
