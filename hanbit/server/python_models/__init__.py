"""Triton's Python models: the module that they import, the process that they run in, and the server's end of it.

What a worker process loads (`worker.py` and what it imports) needs numpy and the standard library only.
"""
