_base_ = './plain_resnet18_1xb64-200e_stl10.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.4)
