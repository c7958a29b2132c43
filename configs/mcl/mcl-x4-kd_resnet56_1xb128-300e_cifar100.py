_base_ = './mcl-x4_resnet56_1xb128-300e_cifar100.py'

model = dict(loss_weights=dict(loss_kd=1.0))
