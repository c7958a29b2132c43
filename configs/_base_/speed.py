# Add this file to a config's _base_ list, or give mmkdprune train --speed; docs/speed.md explains every switch.
# What cannot work on the machine at hand is left off, and the log says why.
speed = dict(
    channels_last=True,  # convolution weights and images in the channels-last memory format
    amp='auto',  # 'auto', 'bfloat16', 'float16' or False
    fused_optimizer=True,  # one kernel for all weights
    deferred_logging=True,  # read losses when they are logged
    cudnn_benchmark=True,  # let cuDNN try its algorithms
    tf32=True,  # float32 matrix products and convolutions on tensor cores
    keep_memory=True,  # on a CPU: let the memory of one step serve the next
    batched_data=True)  # small images as one tensor, augmented batch by batch
# Off unless asked for, since the first iterations then take a minute or more: speed.compile=True, or
# compile=dict(mode='reduce-overhead') and whatever else torch.compile takes.
