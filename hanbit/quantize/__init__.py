"""Floor 3: weights rounded to few bits, in groups that share a scale; torch alone, no files."""
