_base_ = './moco-mlp_resnet18_8xb32-200e_in1k.py'

model = dict(num_peers=2)
