"""Triton's extensions that are more than a field of the protocol: shared memory, traces, logging, classes, loads."""
