# MIT Indoor Scenes 67; images and normalisation as for ImageNet, as in the authors' code
_base_ = './imagenet_bs32.py'

dataset_type = 'mmkdprune.MIT67'
data_root = 'data/mit67'
data_preprocessor = dict(num_classes=67)

train_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, split='train'))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, split='test'))
test_dataloader = val_dataloader
