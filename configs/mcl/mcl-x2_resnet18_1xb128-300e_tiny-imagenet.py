_base_ = './plain_resnet18_1xb128-300e_tiny-imagenet.py'

model = dict(type='mmkdprune.MCL', num_peers=2)
