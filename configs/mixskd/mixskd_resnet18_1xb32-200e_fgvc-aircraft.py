_base_ = './plain_resnet18_1xb32-200e_fgvc-aircraft.py'

# alpha of the ImageNet run; the paper's value for this set is not known
model = dict(type='mmkdprune.MixSKD', alpha=0.2)
