"""One file per backend, found by the name that config.pbtxt gives in `backend`."""
