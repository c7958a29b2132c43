_base_ = './resnet20_cifar100.py'

model = dict(head=dict(num_classes=20))
