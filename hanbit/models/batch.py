"""A batch: tensors by name, each with the sequences along dim 0. Cut by micro-batch, it reaches every pipeline stage.

    tokens     [sequences, time] int64: what the model reads
    targets    [sequences, time] int64: what it should say; below 0 where nothing is learnt
    positions  [sequences, time] int64, where they are not 0, 1, 2 ...
    documents  [sequences, time] int64: which document of its row each token belongs to, where a row has several

A family may have keys of its own.
"""

import torch

Batch = dict[str, torch.Tensor]


def positions_of(batch: Batch) -> torch.Tensor:
    """[sequences, time] as the batch has them, else [time]: 0, 1, 2 ..."""
    if "positions" in batch:
        return batch["positions"]
    tokens = batch["tokens"]
    return torch.arange(tokens.shape[1], device=tokens.device)
