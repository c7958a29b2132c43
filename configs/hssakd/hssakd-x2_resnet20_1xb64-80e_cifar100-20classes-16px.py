_base_ = '../mixskd/plain_resnet20_1xb64-80e_cifar100-20classes-16px.py'

model = dict(type='mmkdprune.OnlineHSSAKD', num_peers=2)
