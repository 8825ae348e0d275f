"""Floor 5: the training loop."""
