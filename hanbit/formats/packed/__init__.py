"""Quantised matrices of the ecosystem's Hugging Face folders: AWQ, GPTQ, compressed-tensors; codes packed into int32.

`layouts.py` says which tensors make a matrix and checks their shapes, `unpack.py` reads its codes, scales and zeros.
"""
