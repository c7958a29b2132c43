_base_ = './digits_bs64.py'
