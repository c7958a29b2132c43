_base_ = './plain_resnet8_1xb64-6e-pairs_omniglot-28px.py'

model = dict(type='mmkdprune.MCL', num_peers=2)
