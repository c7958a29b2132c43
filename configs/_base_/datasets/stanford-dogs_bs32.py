# Stanford Dogs; images and normalisation as for ImageNet, as in the authors' code
_base_ = './imagenet_bs32.py'

dataset_type = 'mmkdprune.StanfordDogs'
data_root = 'data/stanford-dogs'
data_preprocessor = dict(num_classes=120)

train_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, split='train'))
val_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root, split='test'))
test_dataloader = val_dataloader
