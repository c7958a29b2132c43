# 16 of the 100 classes with 4 images each
_base_ = './cifar100-16px_bs64.py'

train_dataloader = dict(batch_sampler=dict(type='mmkdprune.ClassPairBatchSampler', samples_per_class=4))
