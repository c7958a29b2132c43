# Speed-ups that leave precision and random numbers as they are. The data sets of real images have this file as a base,
# so every config that trains on one has them; speed=False or mmkdprune train --no-speed turns them off. docs/speed.md
# explains every switch, speed.py has the others.
speed = dict(channels_last=True, fused_optimizer=True, deferred_logging=True, keep_memory=True)
