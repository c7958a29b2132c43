_base_ = './plain_resnet18-w16_1xb64-30e_cifar100.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.4)
