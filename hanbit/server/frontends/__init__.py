"""One file per protocol over the same data plane."""
