"""GPT-2's shape."""
