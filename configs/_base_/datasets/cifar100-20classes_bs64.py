_base_ = './cifar100_bs64.py'

# A small problem of real images: the first 20 classes, the first 250 training images and all test images of each,
# batched from memory.
data_preprocessor = dict(num_classes=20)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    collate_fn=dict(type='mmkdprune.batched_collate'),
    dataset=dict(
        _delete_=True,
        type='mmkdprune.BatchedDataset',
        dataset=dict(
            type='mmkdprune.ClassSubset',
            num_classes=20,
            images_per_class=250,
            dataset={{_base_.train_dataloader.dataset}})))
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    pin_memory=False,
    collate_fn=dict(type='mmkdprune.batched_collate'),
    dataset=dict(
        _delete_=True,
        type='mmkdprune.BatchedDataset',
        dataset=dict(type='mmkdprune.ClassSubset', num_classes=20, dataset={{_base_.val_dataloader.dataset}})))
test_dataloader = val_dataloader
