"""A backbone's whole way: pretrained, pruned, compact, fine-tuned in a detector and a segmentor."""
