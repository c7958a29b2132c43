_base_ = './mcl-x4_resnet18_8xb32-90e_in1k.py'

model = dict(loss_weights=dict(loss_kd=1.0))
