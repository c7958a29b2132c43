_base_ = './plain_resnet20_1xb64-60e_cifar100-16px.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.4)
