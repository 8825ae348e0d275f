"""Two models over the same tokens, compared by their logits; by their hidden states where they say no tokens."""

from pathlib import Path
from typing import Any

import torch

from hanbit.common.errors import ModelError
from hanbit.models.bert.model import Bert
from hanbit.models.layers.attend import bidirectional, causal, encoder_decoder
from hanbit.models.layers.decoder import Decoder
from hanbit.models.t5.model import T5

_NUM_TOKENS = 48  # or the context, if that is shorter
_TOLERANCE = 1e-4  # of the largest logit: sums in another order, in float32, stay below a tenth of it


def tokens_to_try(vocabulary: int, context: int) -> torch.Tensor:
    """[tokens] int64, all over the vocabulary, always the same ones."""
    return torch.randint(vocabulary, (min(_NUM_TOKENS, context),), generator=torch.Generator().manual_seed(0))


def logits_of_ours(model: Decoder | Bert | T5, tokens: torch.Tensor) -> torch.Tensor:
    """tokens [tokens] -> [tokens, vocabulary], of a model that says no tokens [tokens, hidden]. Encoder and decoder
    read the same."""
    positions = torch.arange(len(tokens))
    with torch.no_grad():
        if isinstance(model, Bert):
            hidden = model.trunk(model.embed(tokens[None], positions, torch.zeros_like(tokens)), bidirectional())[0]
            return model.head(hidden) if model.config.word_head else hidden
        if isinstance(model, T5):
            read = {"tokens": tokens[None], "decoder_tokens": tokens[None]}
            return model.head(model.advance((), read, encoder_decoder())[0])[0]
        return model.head(model.trunk(model.embed(tokens[None], positions), positions, causal()))[0]


def compared(wanted: torch.Tensor, found: torch.Tensor, folder: Path, what: str = "logits") -> dict[str, Any]:
    """What hanbit.json says of it. Raises ModelError where they are further apart than float32 explains."""
    largest, difference = float(wanted.abs().max()), float((wanted - found).abs().max())
    if not difference <= _TOLERANCE * largest:
        raise ModelError(
            f"proof failed: {what} of {folder} differ from the source's by up to {difference:.3g}, "
            f"at most {_TOLERANCE * largest:.3g} is rounding"
        )
    others = {} if what == "logits" else {"compared": what}
    return {**others, "logit_tokens": len(wanted), "logits_difference": difference, "largest_logit": largest}
