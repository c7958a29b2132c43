_base_ = './plain_resnet20_1xb128-200e_cifar10.py'

# other methods, rates and networks: tools/pruning_variants.py
custom_hooks = [
    dict(
        type='mmkdprune.FilterPruningHook', pruner=dict(method='ghfp-asrfp', rate=0.4), evaluate_finalize=True),
]
