_base_ = [
    '../_base_/models/resnet18-w16_digits.py', '../_base_/datasets/digits-32px_bs64.py',
    '../_base_/schedules/digits_20e.py', '../_base_/default_runtime.py'
]

default_hooks = dict(logger=dict(interval=10))
custom_hooks = [dict(type='mmkdprune.ChannelsLastHook')]
