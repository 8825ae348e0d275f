"""Compute kernels of our own: C++ for CPUs, built at install by the compiler that is there (docs/kernels.md)."""
