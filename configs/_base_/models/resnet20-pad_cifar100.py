_base_ = './resnet20-pad_cifar10.py'

model = dict(head=dict(num_classes=100))
