"""Logits of two models over the same tokens, compared."""

from pathlib import Path
from typing import Any

import torch

from hanbit.common.errors import ModelError
from hanbit.models.layers.attend import causal
from hanbit.models.layers.decoder import Decoder

_NUM_TOKENS = 48  # or the context, if that is shorter
_TOLERANCE = 1e-4  # of the largest logit: sums in another order, in float32, stay below a tenth of it


def tokens_to_try(vocabulary: int, context: int) -> torch.Tensor:
    """[tokens] int64, all over the vocabulary, always the same ones."""
    return torch.randint(vocabulary, (min(_NUM_TOKENS, context),), generator=torch.Generator().manual_seed(0))


def logits_of_ours(model: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    """tokens [tokens] -> [tokens, vocabulary]."""
    positions = torch.arange(len(tokens))
    with torch.no_grad():
        return model.head(model.trunk(model.embed(tokens[None], positions), positions, causal()))[0]


def compared(wanted: torch.Tensor, found: torch.Tensor, folder: Path) -> dict[str, Any]:
    """What hanbit.json says of it. Raises ModelError where they are further apart than float32 explains."""
    largest, difference = float(wanted.abs().max()), float((wanted - found).abs().max())
    if not difference <= _TOLERANCE * largest:
        raise ModelError(
            f"proof failed: logits of {folder} differ from the source's by up to {difference:.3g}, "
            f"at most {_TOLERANCE * largest:.3g} is rounding"
        )
    return {"logit_tokens": len(wanted), "logits_difference": difference, "largest_logit": largest}
