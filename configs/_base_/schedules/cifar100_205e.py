# 5 epochs of linear warm-up by iteration (782 of 64 images each), then steps 100 and 150 epochs later
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / (5 * 782), by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[105, 155], gamma=0.1),
]
train_cfg = dict(by_epoch=True, max_epochs=205, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=64)
