_base_ = './cifar100_bs64.py'

# the same 25 % of the images of every class for all methods
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmkdprune.StratifiedSubset',
        ratio=0.25,
        dataset={{_base_.train_dataloader.dataset}}))
