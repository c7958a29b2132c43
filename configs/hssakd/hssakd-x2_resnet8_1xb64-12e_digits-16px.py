_base_ = '../hsakd/plain_resnet8_1xb64-12e_digits-16px.py'

model = dict(type='mmkdprune.OnlineHSSAKD', num_peers=2)
