_base_ = '../mixskd/mixskd_resnet20_1xb64-20e_digits-16px.py'

# the deployable network is pruned; the train-only branches and the self-teacher are not
custom_hooks = [
    dict(
        type='mmkdprune.FilterPruningHook', pruner=dict(method='ghfp-asrfp', rate=0.4), evaluate_finalize=True),
    dict(type='mmkdprune.ChannelsLastHook'),
]
