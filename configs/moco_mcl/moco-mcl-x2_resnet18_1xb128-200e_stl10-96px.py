_base_ = './moco_resnet18_1xb128-200e_stl10-96px.py'

model = dict(num_peers=2)
