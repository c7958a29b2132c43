"""Pruning in a run: which pruner, when its steps are due, and what they need of the runner."""
