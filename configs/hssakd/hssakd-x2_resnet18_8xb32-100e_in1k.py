_base_ = '../hsakd/plain_resnet18_8xb32-100e_in1k.py'

model = dict(type='mmkdprune.OnlineHSSAKD', num_peers=2)
