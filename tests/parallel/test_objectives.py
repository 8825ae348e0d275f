"""One stage that is all of a model: its loss against torch's own on the logits, and positions as the batch has them."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hanbit.config.model import GPTConfig, LlamaConfig
from hanbit.models.layers.attend import causal_in_batch
from hanbit.models.layers.decoder import Decoder
from hanbit.models.registry import FAMILIES
from hanbit.parallel.grid import Axis
from hanbit.parallel.objectives import ANSWERS, NEXT_TOKENS, Vocabulary
from hanbit.parallel.stage import Stage

SHAPE: dict[str, Any] = {"layers": 2, "hidden": 32, "heads": 2, "inner": 48, "vocabulary": 13, "context": 16}
DECODERS = {
    "gpt": GPTConfig(family="gpt", **SHAPE),
    "llama": LlamaConfig(family="llama", key_value_heads=1, head_dim=16, **SHAPE),
}
TOKENS = torch.arange(12).reshape(2, 6) % 7


def decoder(family: str) -> Decoder:
    torch.manual_seed(3)
    return FAMILIES[family].build(DECODERS[family])


def stage(model: Decoder, objective: object = NEXT_TOKENS) -> Stage:
    return Stage(model, causal_in_batch, objective, Vocabulary(Axis("tensor")), is_last=True)  # type: ignore[arg-type]


def logits(model: Decoder, positions: torch.Tensor) -> torch.Tensor:
    hidden = model.trunk(model.embed(TOKENS, positions), positions, causal_in_batch({}))
    return model.head(hidden)


@pytest.mark.parametrize("family", sorted(DECODERS))
@pytest.mark.parametrize("start", [0, 3])
def test_loss_of_a_batch_is_cross_entropy_at_the_positions_it_has(family: str, start: int) -> None:
    model, targets = decoder(family), TOKENS.flip(1)
    positions = torch.arange(start, start + 6)
    batch = {"tokens": TOKENS, "targets": targets, **({"positions": positions.expand(2, -1)} if start else {})}
    wanted = F.cross_entropy(logits(model, positions).flatten(0, 1), targets.flatten(), reduction="sum")
    torch.testing.assert_close(stage(model)(**batch), wanted.reshape(1))


def test_targets_below_zero_are_left_out_of_answers() -> None:
    model, targets = decoder("llama"), TOKENS.flip(1).clone()
    targets[0, :4] = targets[1, 5] = -1
    found = stage(model, ANSWERS)(tokens=TOKENS, targets=targets)
    flat = logits(model, torch.arange(6)).flatten(0, 1)
    wanted = F.cross_entropy(flat, targets.flatten(), ignore_index=-1, reduction="sum")
    torch.testing.assert_close(found, wanted.reshape(1))
