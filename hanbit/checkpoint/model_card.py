"""README.md of a model folder: what hubs read in its header, what people read below it."""

import re
from pathlib import Path
from typing import Any

from hanbit.config.model import ModelConfig
from hanbit.models.registry import family_of

_LICENCE = re.compile(r"[A-Za-z0-9.-]{1,60}")


def model_card(folder: Path, config: ModelConfig, facts: dict[str, Any]) -> str:
    """The licence is left for the owner to state, unless `facts` have the `license` of what it was made from."""
    adapter = family_of(config).huggingface
    architecture = adapter.config_to(config)["architectures"][0]
    task, auto_class = adapter.cards.get(architecture, (adapter.task, adapter.auto_class))
    made_from = ", ".join(str(parent) for parent in facts.get("parents", []))
    licence = facts.get("license")
    is_named = isinstance(licence, str) and _LICENCE.fullmatch(licence) is not None  # a stranger's text in a header
    header = f"license: {licence}\n" if is_named else ""
    stated = f"Licence: {licence}, as its source says. Data" if is_named else "Licence, data"
    return f"""---
{header}library_name: transformers
pipeline_tag: {task}
tags:
- hanbit
---

# {folder.parent.name if folder.name == "model" else folder.name}

A `{config.family}` model: {config.layers} layers, hidden {config.hidden}, {config.heads} heads,
context {config.context} tokens, vocabulary {config.vocabulary}.
Written by hanbit{f" from {made_from}" if made_from else ""}. {stated} and intended use are not stated yet.

```python
from transformers import {auto_class}
model = {auto_class}.from_pretrained("{folder.name}")
```
"""
