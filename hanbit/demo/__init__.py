"""Floor 8: the whole journey in one go, on real input: the same commands that a user types, one after another."""
