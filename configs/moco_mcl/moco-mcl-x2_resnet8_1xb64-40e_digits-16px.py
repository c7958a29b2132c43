_base_ = './moco_resnet8_1xb64-40e_digits-16px.py'

model = dict(num_peers=2)
