# 8 classes with 8 images each: there are 10 classes in all
_base_ = './digits_bs64.py'

train_dataloader = dict(batch_sampler=dict(type='mmkdprune.ClassPairBatchSampler', samples_per_class=8))
