_base_ = '../mixskd/mixskd_resnet18-w16_1xb64-30e_cifar100.py'

# one mask for all layers that are added up: stages get narrower, which a compact backbone hands on to neck and heads
custom_hooks = [
    dict(
        type='mmkdprune.FilterPruningHook',
        pruner=dict(method='ghfp-asrfp', rate=0.4, coupling='group', bn_policy='follow'),
        evaluate_finalize=True),
]
