"""Checkpoint files: read safely, written whole, of plain data, and compared with the network they go into."""
