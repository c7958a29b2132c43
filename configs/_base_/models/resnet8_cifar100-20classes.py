_base_ = './resnet20_cifar100-20classes.py'

model = dict(backbone=dict(depth=8))
