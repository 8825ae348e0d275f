"""Floor 3: files of other projects, as plain readers and writers."""
