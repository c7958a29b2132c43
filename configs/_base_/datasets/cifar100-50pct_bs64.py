_base_ = './cifar100_bs64.py'

# the same 50 % of the images of every class for all methods
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmkdprune.StratifiedSubset',
        ratio=0.5,
        dataset={{_base_.train_dataloader.dataset}}))
