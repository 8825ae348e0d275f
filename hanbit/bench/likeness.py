"""How like one engine's predictions are to another's, token by token of one text."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from hanbit.engine.llm import LLM
from hanbit.engine.parts import Part
from hanbit.engine.runner import Runner

KNOWN = -16.0  # log-probabilities below are a tail that some engines do not tell


@dataclass
class Likeness:
    """Of `name`'s predictions to a base's, over all windows that were added."""

    name: str
    positions: int = 0
    largest_gap: float = 0.0  # log-probability by which the base prefers its own likeliest token to this one's
    _lost: float = field(default=0.0, repr=False)
    _same: int = field(default=0, repr=False)
    _divergence: float = field(default=0.0, repr=False)

    def add(self, base: torch.Tensor, own: torch.Tensor, following: torch.Tensor) -> None:
        """Log-probabilities [positions, vocabulary] of both, and the tokens [positions] that the text goes on with."""
        self.positions += len(own)
        self._lost -= float(own.gather(1, following[:, None]).double().sum())
        choice = own.argmax(-1)
        gaps = base.amax(-1) - base.gather(1, choice[:, None])[:, 0]
        self._same += int((gaps == 0).sum())
        self.largest_gap = max(self.largest_gap, float(gaps.max()))
        known = base > KNOWN
        self._divergence += float((base.exp() * (base - own))[known].double().sum())

    @property
    def perplexity(self) -> float:
        return float(torch.tensor(self._lost / self.positions).double().exp())

    @property
    def same_first(self) -> float:
        """Share of positions where both find the same token the likeliest."""
        return self._same / self.positions

    @property
    def divergence(self) -> float:
        """Mean Kullback-Leibler divergence from the base, in nats, over what the base tells."""
        return self._divergence / self.positions


def log_probabilities(llm: LLM, tokens: list[int], first: int) -> torch.Tensor:
    """Of the tokens behind positions `first` to the last but one, float32 [positions, vocabulary], as an answer's are
    computed: what comes before is read at once, then the text's tokens are fed one at a time."""
    return torch.stack([logits.float().cpu().log_softmax(-1) for logits in _fed(llm, tokens, first)])


def _fed(llm: LLM, tokens: list[int], first: int) -> Iterator[torch.Tensor]:
    num_blocks = -(-len(tokens) // llm.block_size)
    runner, blocks = Runner(llm.model, num_blocks, llm.block_size, llm.kv_cache_dtype), array("i", range(num_blocks))
    start = 0
    for end in range(first + 1, len(tokens)):
        (logits,) = runner.feed([Part(llm.sequence(tokens[:end]), start, end, blocks)])
        assert logits is not None
        yield logits
        start = end
