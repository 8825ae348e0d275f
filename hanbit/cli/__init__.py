"""Floor 9: one file per verb, imported on use."""
