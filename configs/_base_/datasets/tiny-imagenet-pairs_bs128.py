# 64 classes with 2 images each
_base_ = './tiny-imagenet_bs64.py'

train_dataloader = dict(batch_size=128, batch_sampler=dict(type='mmkdprune.ClassPairBatchSampler', samples_per_class=2))
