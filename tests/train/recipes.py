"""A tiny run on synthetic tokens."""

from pathlib import Path

from hanbit.bench.exactness import write_tokens


def tiny_run(folder: Path) -> list[str]:
    """Overrides of llama/base that make a run of seconds in `folder`."""
    if not (folder / "tokens.bin").exists():
        write_tokens(folder)
    return [
        f"runs={folder}",
        "name=tiny",
        f"data.train={folder / 'tokens'}",
        "data.split=0.05",
        "model.layers=2",
        "model.hidden=32",
        "model.heads=4",
        "model.key_value_heads=2",
        "model.vocabulary=513",
        "model.context=64",
        "batch.global_batch=8",
        "batch.micro_batch=2",
        "batch.sequence_length=32",
        "training.steps=12",
        "training.device=cpu",
        "optimizer.learning_rate=5e-3",
        "checkpoint.every_steps=4",
        "validation.every_steps=6",
        "validation.batches=2",
    ]
