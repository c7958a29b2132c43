# Speed-ups that leave precision and random numbers as they are: another base of a config. docs/speed.md explains every
# switch, speed.py has the others.
speed = dict(channels_last=True, fused_optimizer=True, deferred_logging=True, keep_memory=True)
