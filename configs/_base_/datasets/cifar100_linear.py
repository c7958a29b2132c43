_base_ = './cifar100_bs64.py'
