# All 10 digits: how few labels a representation needs, not new classes. test_dataloader: 364 images.
_base_ = './digits_bs64.py'
