_base_ = './plain_resnet34_8xb32-90e_in1k.py'

model = dict(
    type='mmkdprune.MCL',
    num_peers=2,
    loss=dict(type='mmkdprune.MemoryMutualContrastiveLoss', tau=0.07, chunk_size=1024),
    num_negatives=8192)
