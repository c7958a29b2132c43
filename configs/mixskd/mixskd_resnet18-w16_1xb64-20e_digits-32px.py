_base_ = './plain_resnet18-w16_1xb64-20e_digits-32px.py'

model = dict(type='mmkdprune.MixSKD', alpha=0.4)
