"""Llama's shape and its relatives."""
