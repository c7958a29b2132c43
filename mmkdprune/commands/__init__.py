"""What the scripts in ``tools/`` run."""
