"""What data sets, heads and checkpoints say of classes and images, and whether it agrees."""
