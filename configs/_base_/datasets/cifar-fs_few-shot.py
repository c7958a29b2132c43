# CIFAR-FS: CIFAR-100 with 64 classes for training, 16 for validation and 20 for testing, 600 images each
# (Bertinetto et al., "Meta-learning with differentiable closed-form solvers", ICLR 2019)
data_preprocessor = dict(
    mean=[129.3105, 124.1085, 112.404],
    std=[68.2125, 65.4075, 70.4055],
    to_rgb=False)

train_classes = [
    'apple', 'aquarium_fish', 'bear', 'bee', 'bottle', 'bowl', 'boy', 'bridge', 'bus', 'can', 'castle',
    'caterpillar', 'chair', 'clock', 'cloud', 'cockroach', 'couch', 'cup', 'dinosaur', 'dolphin', 'elephant',
    'forest', 'girl', 'hamster', 'house', 'kangaroo', 'keyboard', 'lawn_mower', 'lion', 'lizard', 'lobster',
    'mountain', 'mouse', 'mushroom', 'oak_tree', 'orange', 'orchid', 'palm_tree', 'pear', 'pine_tree', 'plate',
    'porcupine', 'possum', 'rabbit', 'raccoon', 'ray', 'road', 'seal', 'shrew', 'skunk', 'skyscraper', 'snake',
    'spider', 'squirrel', 'streetcar', 'sunflower', 'tank', 'tiger', 'train', 'trout', 'tulip', 'turtle',
    'willow_tree', 'wolf',
]
val_classes = [
    'beaver', 'beetle', 'butterfly', 'camel', 'cattle', 'crab', 'crocodile', 'flatfish', 'lamp', 'maple_tree',
    'motorcycle', 'otter', 'sea', 'shark', 'television', 'tractor',
]
test_classes = [
    'baby', 'bed', 'bicycle', 'chimpanzee', 'fox', 'leopard', 'man', 'pickup_truck', 'plain', 'poppy', 'rocket',
    'rose', 'snail', 'sweet_pepper', 'table', 'telephone', 'wardrobe', 'whale', 'woman', 'worm',
]

# check_md5=True accepts the official files only; any copy in the standard layout does otherwise.
both_parts = dict(
    type='ConcatDataset',
    datasets=[
        dict(
            type='mmkdprune.CIFAR100',
            data_root='data',
            split=split,
            check_md5=False,
            pipeline=[dict(type='PackInputs')]) for split in ('train', 'test')
    ])
loader = dict(
    batch_size=256, num_workers=2, persistent_workers=True, sampler=dict(type='DefaultSampler', shuffle=False))
train_dataloader = dict(
    dataset=dict(type='mmkdprune.ClassSplit', classes=train_classes, dataset=both_parts), **loader)
val_dataloader = dict(
    dataset=dict(type='mmkdprune.ClassSplit', classes=val_classes, dataset=both_parts), **loader)
test_dataloader = dict(
    dataset=dict(type='mmkdprune.ClassSplit', classes=test_classes, dataset=both_parts), **loader)
