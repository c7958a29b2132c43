_base_ = './moco_resnet18_1xb128-200e_cifar100.py'

model = dict(num_peers=2)
