"""Mixtures of experts in Llama's shape."""
