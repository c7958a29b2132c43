_base_ = './plain_resnet20_1xb64-15e_cifar100-20classes.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.4)
