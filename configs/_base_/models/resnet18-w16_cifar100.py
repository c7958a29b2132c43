_base_ = './resnet18-w16_digits.py'

model = dict(head=dict(num_classes=100))
