"""BERT's shape."""
