_base_ = './plain_resnet18_8xb32-100e_in1k.py'

# other methods, rates and networks: tools/pruning_variants.py
custom_hooks = [
    dict(
        type='mmkdprune.FilterPruningHook', pruner=dict(method='ghfp-asrfp', rate=0.4), evaluate_finalize=True),
]
