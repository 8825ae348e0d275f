"""README.md of a model folder: what hubs read in its header, what people read below it."""

from pathlib import Path
from typing import Any

from hanbit.config.model import ModelConfig


def model_card(folder: Path, config: ModelConfig, facts: dict[str, Any]) -> str:
    """The licence is left for the owner to state: hanbit does not know it."""
    made_from = ", ".join(str(parent) for parent in facts.get("parents", []))
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- hanbit
---

# {folder.parent.name if folder.name == "model" else folder.name}

A `{config.family}` model: {config.layers} layers, hidden {config.hidden}, {config.heads} heads,
context {config.context} tokens, vocabulary {config.vocabulary}.
Written by hanbit{f" from {made_from}" if made_from else ""}. Licence, data and intended use are not stated yet.

```python
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained("{folder.name}")
```
"""
