"""How pruning rate, soft decay and hard share develop over training."""
