_base_ = './plain_resnet18_1xb64-200e_tiny-imagenet.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.4)
