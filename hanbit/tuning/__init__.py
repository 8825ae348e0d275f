"""Floor 3: ways to adapt a model by few new parameters; each returns its additions to the plan."""
