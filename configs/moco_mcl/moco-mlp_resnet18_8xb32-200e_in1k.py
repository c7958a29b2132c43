_base_ = './moco_resnet18_8xb32-200e_in1k.py'

# the head of MoCo v2, which the authors' code offers and does not use; views and temperature stay those of v1
model = dict(
    neck=dict(_delete_=True, type='MoCoV2Neck', in_channels=512, hid_channels=512, out_channels=128))
