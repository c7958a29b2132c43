"""What the evaluation tools share: which networks and data, and the report."""
