"""Floor 8: measurements against peers and proofs against one process."""
