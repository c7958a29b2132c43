# half an epoch of linear warm-up by iteration (1285 of 64 images each an epoch), then cosine by iteration
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / 642, by_epoch=False, begin=0, end=642),
    dict(type='CosineAnnealingLR', T_max=6 * 1285 - 642, eta_min=0, by_epoch=False, begin=642, end=6 * 1285),
]
train_cfg = dict(by_epoch=True, max_epochs=6, val_interval=1)
auto_scale_lr = dict(base_batch_size=64)
