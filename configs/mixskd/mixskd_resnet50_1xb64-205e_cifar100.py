_base_ = './plain_resnet50_1xb64-205e_cifar100.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.4)
