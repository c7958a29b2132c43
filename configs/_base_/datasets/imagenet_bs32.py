_base_ = ['mmpretrain::_base_/datasets/imagenet_bs32.py', '../safe_speed.py']
