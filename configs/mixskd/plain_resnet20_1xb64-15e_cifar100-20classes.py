_base_ = [
    '../_base_/models/resnet20_cifar100-20classes.py', '../_base_/datasets/cifar100-20classes_bs64.py',
    '../_base_/schedules/cifar100-20classes_15e.py', '../_base_/default_runtime.py'
]

# a config that sets custom_hooks of its own replaces this list
custom_hooks = [dict(type='mmkdprune.ChannelsLastHook')]
