"""Floor 3: from corpora to token files to batches whose order depends on seed, epoch and index alone."""
