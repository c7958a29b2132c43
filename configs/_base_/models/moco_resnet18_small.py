# one network: MoCo v1 for small images on one GPU. The key encoder follows faster and the queue is shorter than on
# ImageNet, as the sets are; 8 groups have the batch statistics of 8 GPUs.
model = dict(
    type='mmkdprune.MoCoMCL',
    num_peers=1,
    num_groups=8,
    queue_len=4096,
    feat_dim=128,
    momentum=0.01,
    backbone=dict(type='ResNet_CIFAR', depth=18, num_stages=4, out_indices=(3, ), zero_init_residual=False),
    neck=dict(type='LinearNeck', in_channels=512, out_channels=128, gap_dim=2, norm_cfg=None),
    head=dict(type='ContrastiveHead', temperature=0.1, loss=dict(type='CrossEntropyLoss')))
