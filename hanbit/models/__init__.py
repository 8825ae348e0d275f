"""Floor 2: the models. Each family is {model, plan, huggingface}.py over the shared `layers/`; `plan.py` holds the
sharding words, `registry.py` finds a family by name. Models know nothing of devices, processes, caches or files."""
