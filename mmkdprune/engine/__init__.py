"""What runs beside the model: hooks, pruning in a run, speed, and what every runner gets.

The hooks are not imported here but where the registries look for them (``mmkdprune.engine.hooks``), because
``import mmkdprune`` needs other modules of this package and should not wait for all of them.
"""
