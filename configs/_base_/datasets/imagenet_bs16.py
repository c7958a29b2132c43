_base_ = ['mmpretrain::_base_/datasets/imagenet_bs32.py', '../safe_speed.py']

train_dataloader = dict(batch_size=16)
