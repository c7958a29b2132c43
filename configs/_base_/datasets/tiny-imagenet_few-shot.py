# All 200 classes of Tiny-ImageNet's validation set, 50 images each, for networks that were trained on other data. There
# is no usual split by class.
_base_ = './tiny-imagenet-32px_linear.py'

train_dataloader = None
