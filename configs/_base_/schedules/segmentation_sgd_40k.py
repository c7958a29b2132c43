# The schedule of MixSKD's segmentation experiments: SGD, lr 0.02 for a batch of 16, polynomial decay to 0.
_base_ = 'mmseg::_base_/schedules/schedule_40k.py'

optim_wrapper = dict(optimizer=dict(lr=0.02, weight_decay=1e-4))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0, begin=0, end=40_000, by_epoch=False)]

auto_scale_lr = dict(enable=False, base_batch_size=16)
