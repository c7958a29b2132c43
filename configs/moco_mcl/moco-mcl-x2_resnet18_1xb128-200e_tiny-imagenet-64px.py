_base_ = './moco_resnet18_1xb128-200e_tiny-imagenet-64px.py'

model = dict(num_peers=2)
