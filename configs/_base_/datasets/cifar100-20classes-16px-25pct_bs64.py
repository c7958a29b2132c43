_base_ = './cifar100-20classes-16px_bs64.py'

# the same 62 images of every class for all methods
train_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type='mmkdprune.StratifiedSubset',
            ratio=0.25,
            dataset={{_base_.train_dataloader.dataset.dataset}})))
