_base_ = './plain_resnet8_1xb64-12e-pairs_digits-16px.py'

model = dict(type='mmkdprune.MCL', num_peers=2)
