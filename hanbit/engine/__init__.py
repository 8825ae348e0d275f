"""Floor 5: a model that speaks: key-value cache, batching, sampling."""
