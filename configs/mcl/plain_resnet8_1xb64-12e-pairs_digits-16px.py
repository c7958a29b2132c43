_base_ = [
    '../_base_/models/resnet8_digits.py', '../_base_/datasets/digits-pairs_bs64.py',
    '../_base_/schedules/digits_12e.py', '../_base_/default_runtime.py'
]

default_hooks = dict(logger=dict(interval=10))
# a config that sets custom_hooks of its own replaces this list
custom_hooks = [dict(type='mmkdprune.ChannelsLastHook')]
