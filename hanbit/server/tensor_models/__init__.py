"""Models that are a file of tensors' operations: loaded, completed, batched, computed in threads."""
