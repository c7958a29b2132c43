_base_ = [
    '../_base_/models/resnet8_omniglot.py', '../_base_/datasets/omniglot-pairs_bs64.py',
    '../_base_/schedules/omniglot_6e.py', '../_base_/default_runtime.py'
]

custom_hooks = [dict(type='mmkdprune.ChannelsLastHook')]
