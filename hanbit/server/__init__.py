"""Floor 7: models behind protocols. One data plane (tensors in, tensors out), several frontends over it."""
