_base_ = '../mixskd/plain_resnet20_1xb64-60e_cifar100-16px.py'

# other methods and rates: tools/pruning_variants.py
custom_hooks = [
    dict(
        type='mmkdprune.FilterPruningHook',
        pruner=dict(method='ghfp-asrfp', rate=0.4),
        evaluate_finalize=True),
]
