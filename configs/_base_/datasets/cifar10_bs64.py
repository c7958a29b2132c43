_base_ = './cifar100_bs64.py'

dataset_type = 'mmkdprune.CIFAR10'
# the pruning papers' normalisation on the 0..255 scale
data_preprocessor = dict(num_classes=10, mean=[125.3, 123.0, 113.9], std=[63.0, 62.1, 66.7])

train_dataloader = dict(dataset=dict(type=dataset_type))
val_dataloader = dict(dataset=dict(type=dataset_type))
test_dataloader = val_dataloader
