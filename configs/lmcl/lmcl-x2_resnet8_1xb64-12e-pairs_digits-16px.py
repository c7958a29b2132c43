_base_ = '../mcl/plain_resnet8_1xb64-12e-pairs_digits-16px.py'

# 22 iterations an epoch: two meta steps in each
model = dict(type='mmkdprune.LayerwiseMCL', num_peers=2, meta_interval=11)
