"""Gemma's shape."""
