"""Channels followed through one forward pass: which layers they tie together, and what is zero."""
