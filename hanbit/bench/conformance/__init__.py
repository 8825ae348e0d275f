"""A conformance suite for the KServe v2 protocol and Triton's extensions: checks that ask any server."""
