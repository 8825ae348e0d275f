"""A tiny base model with a chat template, a few conversations, and a recipe that tunes the one on the other."""

import json
from pathlib import Path

from tests.engine.folders import write_folder

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message.content }}<|im_end|>{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_base(path: Path, name: str = "llama") -> Path:
    """A random model of a configuration of tests/models/shapes.py; its tokenizer speaks ChatML."""
    path.mkdir(parents=True, exist_ok=True)
    write_folder(path, name)
    (path / "chat_template.jinja").write_text(CHATML)
    return path


def write_conversations(path: Path, count: int = 12) -> Path:
    """Of different lengths, so that padding and the number of answer tokens differ from row to row."""
    lines = []
    for index in range(count):
        words = "the lazy dog " * (index % 3 + 1)
        messages = [
            {"role": "user", "content": words + "?" * (index % 4)},
            {"role": "assistant", "content": "fox" * (index % 5 + 1)},
        ]
        lines.append(json.dumps({"messages": messages}))
    path.write_text("\n".join(lines) + "\n")
    return path


def tuning_recipe(folder: Path, base: str = "llama") -> Path:
    """A recipe of seconds with everything it needs, in `folder`."""
    return _recipe(
        folder,
        base,
        f"""
name: tuned
tuning: {{model: {folder / "base"}, rank: 4, alpha: 8.0}}
training: {{steps: 6, device: cpu}}
""",
    )


def sft_recipe(folder: Path, base: str = "llama") -> Path:
    """The same conversations, for all weights to learn."""
    return _recipe(
        folder,
        base,
        f"""
name: sft
training: {{initial_model: {folder / "base"}, steps: 6, device: cpu}}
""",
    )


def _recipe(folder: Path, base: str, own: str) -> Path:
    write_base(folder / "base", base)
    write_conversations(folder / "talk.jsonl")
    path = folder / "recipe.yaml"
    path.write_text(
        f"""{own}
runs: {folder}
data: {{train: {folder / "talk.jsonl"}, split: 0.2}}
batch: {{global_batch: 4, micro_batch: 1, sequence_length: 56}}
optimizer: {{learning_rate: 1e-2, epsilon: 1e-5, warmup_steps: 0, schedule: constant}}
checkpoint: {{every_steps: 3}}
validation: {{every_steps: 3, batches: 1}}
"""
    )
    return path
