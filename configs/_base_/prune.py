# Prunes the backbone of whatever another base trains: _base_ = ['mmpretrain::resnet/resnet50_8xb32_in1k.py',
# 'mmkdprune::_base_/prune.py'], or mmkdprune train CONFIG --prune METHOD --rate RATE. These are the arguments of
# mmkdprune.FilterPruningHook, which joins the config's default_hooks: its custom_hooks stay as they are.
prune = dict(pruner=dict(method='ghfp-asrfp', rate=0.4, coupling='group'), evaluate_finalize=True)
