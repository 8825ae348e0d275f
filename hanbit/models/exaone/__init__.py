"""EXAONE 4.0's shape."""
