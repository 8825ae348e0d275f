"""T5's shape."""
