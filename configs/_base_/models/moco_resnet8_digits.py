# one network: MoCo v1 on a set of 1,433 images. Its queue is short, or most images would meet their own earlier keys in
# it; 2 groups have the batch statistics of 2 GPUs.
model = dict(
    type='mmkdprune.MoCoMCL',
    num_peers=1,
    num_groups=2,
    queue_len=256,
    feat_dim=128,
    momentum=0.01,
    backbone=dict(type='mmkdprune.CifarResNet', depth=8),
    neck=dict(type='LinearNeck', in_channels=64, out_channels=128, gap_dim=2, norm_cfg=None),
    head=dict(type='ContrastiveHead', temperature=0.1, loss=dict(type='CrossEntropyLoss')))
