# Trains a pruned backbone on without filling its zeros: another base beside a config that has no custom_hooks.
custom_hooks = [dict(type='mmkdprune.FilterPruningHook', pruner=dict(type='ZeroKeeper'))]
