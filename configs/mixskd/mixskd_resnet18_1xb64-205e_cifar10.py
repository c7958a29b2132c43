_base_ = './plain_resnet18_1xb64-205e_cifar10.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.4)
