"""OPT's shape."""
