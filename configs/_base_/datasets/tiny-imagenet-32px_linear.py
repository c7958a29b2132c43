# Tiny-ImageNet at 32 px, as in HSAKD's transfer experiments: 200 classes, 100,000 and 10,000 images. The validation
# images are expected in a folder a class, val/<class>/*.JPEG.
_base_ = './stl10-32px_linear.py'

data_root = 'data/tiny-imagenet-200'
data_preprocessor = dict(num_classes=200, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])

train_dataloader = dict(dataset=dict(data_root=data_root, data_prefix='train'))
val_dataloader = dict(dataset=dict(data_root=data_root, data_prefix='val'))
test_dataloader = val_dataloader
