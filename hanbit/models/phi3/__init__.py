"""Phi-3's folders of Llama's shape."""
