_base_ = '../hsakd/plain_shufflenetv2_1xb64-240e_cifar100.py'

model = dict(type='mmkdprune.OnlineHSSAKD', num_peers=2)
