"""Floor 6: what a model can do, in numbers."""
