"""GGUF, llama.cpp's one-file model: header with metadata, then tensors in blocks of 32 or 256 numbers.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Types, their block sizes and the arithmetic of each
are the package `gguf`'s; the header is read here, because that package trusts what a file says of itself.
"""
