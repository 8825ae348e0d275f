"""Blends, packing and named validation sets through the whole loop; what a resumed run must find."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from hanbit.common.errors import ConfigError, DataError
from hanbit.config.model import LlamaConfig
from hanbit.data.apart import kept_apart
from hanbit.data.megatron import TokenWriter
from hanbit.models.layers.attend import causal_in_batch
from hanbit.models.llama.model import Llama
from hanbit.train.run import Result, train

TINY = [
    "model={family: llama, layers: 2, hidden: 32, heads: 4, key_value_heads: 2, vocabulary: 97, context: 64}",
    "batch={micro_batch: 2, global_batch: 4, sequence_length: 32}",
    "training={steps: 6, device: cpu}",
    "checkpoint={every_steps: 3, export: false, keep: 9}",
    "validation={every_steps: 3, batches: 1}",
    "data.packing=documents",
]


def tokens(path: Path, seed: int, documents: int, low: int = 0, high: int = 97) -> Path:
    random = np.random.default_rng(seed)
    with TokenWriter(path, 97) as writer:
        for _ in range(documents):
            writer.add(random.integers(low, high, random.integers(1, 50)))
    return path


def recipe(tmp_path: Path, *more: str) -> list[str]:
    tokens(tmp_path / "a", 1, 40)
    tokens(tmp_path / "b", 2, 12)
    blend = f"[{{path: {tmp_path}/a, weight: 0.7}}, {{path: {tmp_path}/b, weight: 0.3, name: small}}]"
    return [f"runs={tmp_path}/runs", f"data.train={blend}", "name=blend", *TINY, *more]


def rows(result: Result) -> list[dict[str, Any]]:
    """Without what the machine decides: times, speeds and memory."""
    lines = [json.loads(line) for line in result.folder.metrics.read_text().splitlines()]
    of_machine = ("_seconds", "_per_second", "_bytes", "mfu")
    return [{key: value for key, value in line.items() if not key.endswith(of_machine)} for line in lines]


def test_a_blend_of_packed_documents_resumes_in_mid_epoch_to_the_same_bits(tmp_path: Path) -> None:
    whole = train("llama/base", recipe(tmp_path, "name=whole"))
    train("llama/base", recipe(tmp_path, "name=cut"))
    cut = tmp_path / "runs" / "cut"
    shutil.rmtree(cut / "checkpoints" / "step-000006")
    (cut / "checkpoints" / "latest").write_text("step-000003")
    resumed = train("llama/base", recipe(tmp_path, "name=cut"))
    assert rows(resumed) == rows(whole)
    states = [sorted((run.folder.checkpoints / "step-000006").glob("*.safetensors")) for run in (resumed, whole)]
    assert states[0]
    assert [path.read_bytes() for path in states[0]] == [path.read_bytes() for path in states[1]]


def test_named_validation_sets_have_a_loss_each(tmp_path: Path) -> None:
    sets = f"data.validation={{first: {tmp_path}/a, both: [1, {tmp_path}/a, 1, {tmp_path}/b]}}"
    last = rows(train("llama/base", recipe(tmp_path, sets)))[-1]
    assert last["validation_loss"] == (last["validation_loss.first"] + last["validation_loss.both"]) / 2
    assert last["validation_loss.first"] != last["validation_loss.both"]


@pytest.mark.parametrize(
    ("more", "kind", "told"),
    [
        ("data.train=[1, {0}/a, 1, {0}/nowhere]", DataError, "nowhere.idx is missing"),
        ("data.train=[1, {0}/a, 0, {0}/b]", ConfigError, r"data.train\[1\]=0.0: must be more than 0"),
        ("data.train=[1, {0}/a, .nan, {0}/b]", ConfigError, r"data.train\[1\]=NaN: must be a finite number"),
        ("data.train=[{{path: {0}/a, weight: 1}}, {{path: {0}/b}}]", ConfigError, "none for b .*Give all a weight"),
        ("model.vocabulary=90", DataError, "holds token"),
        ("training.compile=true", ConfigError, "data.packing=documents is not proven with training.compile=true"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_before_the_first_step(
    tmp_path: Path, more: str, kind: type[Exception], told: str
) -> None:
    with pytest.raises(kind, match=told):
        train("llama/base", recipe(tmp_path, more.format(tmp_path)))
    assert not (tmp_path / "runs" / "blend" / "metrics.jsonl").exists()


@pytest.mark.parametrize("window", [None, 5])
def test_documents_in_company_come_out_as_they_would_alone(window: int | None) -> None:
    """Logits and gradients: nothing of one document reaches another."""
    torch.manual_seed(0)
    config = LlamaConfig(
        family="llama", layers=2, hidden=32, heads=4, key_value_heads=2, head_dim=8, inner=64, vocabulary=97,
        sliding_window=window,
    )  # fmt: skip
    model = Llama(config).double()
    parts = torch.randint(0, 97, (26,)).split([9, 1, 12, 4])
    apart = kept_apart([np.array([9, 10, 22])], 26)
    packed = {"tokens": torch.cat(parts)[None], **{name: torch.from_numpy(one) for name, one in apart.items()}}
    alone = torch.cat([_logits(model, {"tokens": part[None]})[0] for part in parts])
    together = _logits(model, packed)[0]
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)
    weights = torch.randn(26, 97, dtype=torch.float64)
    for one, other in zip(_gradients(model, (together * weights).sum()), _gradients(model, (alone * weights).sum()),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def _logits(model: Llama, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    return model.head(model.advance((), batch, causal_in_batch(batch))[0])


def _gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True))
