_base_ = './plain_resnet20_1xb64-20e_digits-16px.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.4)
