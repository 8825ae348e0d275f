"""Texts of several lengths in one tensor, for models that see both sides of a token; like ones are put together."""

from collections.abc import Iterator
from collections.abc import Sequence as Items

import torch


def batches(lengths: Items[int], most_tokens: int) -> Iterator[list[int]]:
    """Places of texts that are computed together, padding counted; a longer text is alone."""
    batch: list[int] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > most_tokens:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def padded(texts: Items[Items[int]], device: torch.device | str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids [texts, tokens] int64, and which of them are there, bool: padding stands behind a text."""
    longest = max(map(len, texts))
    tokens = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts], device=device)
    lengths = torch.tensor([len(text) for text in texts], device=device)
    return tokens, torch.arange(longest, device=device) < lengths.unsqueeze(1)


def unless_all(present: torch.Tensor) -> torch.Tensor | None:
    """None where nothing is padding: attention without a mask is faster."""
    return None if bool(present.all()) else present
