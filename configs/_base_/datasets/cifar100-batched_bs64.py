# CIFAR-100 as one tensor, augmented batch by batch
_base_ = './cifar100_bs64.py'

loader = dict(
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    collate_fn=dict(type='mmkdprune.batched_collate'))
train_dataloader = dict(
    dataset=dict(_delete_=True, type='mmkdprune.BatchedDataset', dataset={{_base_.train_dataloader.dataset}}), **loader)
val_dataloader = dict(
    dataset=dict(_delete_=True, type='mmkdprune.BatchedDataset', dataset={{_base_.val_dataloader.dataset}}), **loader)
test_dataloader = val_dataloader
