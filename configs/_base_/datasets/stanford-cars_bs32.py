# Stanford Cars; images and normalisation as for ImageNet, as in the authors' code
_base_ = './imagenet_bs32.py'

dataset_type = 'mmkdprune.StanfordCars'
data_root = 'data/stanford-cars'
data_preprocessor = dict(num_classes=196)

train_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, split='train'))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, split='test'))
test_dataloader = val_dataloader
