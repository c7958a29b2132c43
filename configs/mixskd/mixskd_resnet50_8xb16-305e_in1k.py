_base_ = './plain_resnet50_8xb16-305e_in1k.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.2)
