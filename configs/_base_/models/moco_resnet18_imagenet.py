# one network: MoCo v1, with the authors' queue, momentum and temperature
model = dict(
    type='mmkdprune.MoCoMCL',
    num_peers=1,
    queue_len=65536,
    feat_dim=128,
    momentum=0.001,
    backbone=dict(type='ResNet', depth=18, zero_init_residual=False),
    neck=dict(type='LinearNeck', in_channels=512, out_channels=128, gap_dim=2, norm_cfg=None),
    head=dict(type='ContrastiveHead', temperature=0.07, loss=dict(type='CrossEntropyLoss')))
