# test_dataloader: 423 characters with 20 drawings each
_base_ = './omniglot_bs64.py'
