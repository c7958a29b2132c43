_base_ = './resnet8_digits.py'

model = dict(head=dict(num_classes=4112))
