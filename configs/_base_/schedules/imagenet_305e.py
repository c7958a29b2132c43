# 5 epochs of linear warm-up by iteration (10010 of 128 images each), then cosine by epoch
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / (5 * 10010), by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', T_max=300, eta_min=0, by_epoch=True, begin=5, end=305),
]
train_cfg = dict(by_epoch=True, max_epochs=305, val_interval=1)
val_cfg = dict()
test_cfg = dict()
auto_scale_lr = dict(base_batch_size=128)
