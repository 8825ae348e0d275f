"""Embeddings that cost nothing on the meta device."""

import torch
from torch import nn


def embedding_of(rows: int, width: int) -> nn.Embedding:
    """As nn.Embedding(rows, width), whose first values would load torch's compiler on the meta device, 2 s."""
    weight = torch.empty(rows, width)
    if not weight.is_meta:
        nn.init.normal_(weight)
    return nn.Embedding.from_pretrained(weight, freeze=False)
