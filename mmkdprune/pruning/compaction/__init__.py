"""A pruned network made small, and proved equal."""
