"""BLOOM's shape."""
