# MoCo's linear evaluation: random resized crop and mirroring; 8 x 32 images
_base_ = ['mmpretrain::_base_/datasets/imagenet_bs32_pil_resize.py', '../safe_speed.py']
