"""The weights' update, shared out over replicas (`shard: 1`; Rajbhandari et al., ZeRO stage 1, arXiv 1910.02054).

Gradients and weights are whole on every replica; moments are of some rows of each weight, those that this replica
updates. After an update each gets the other rows from those who updated them. Rows are dealt out as FSDP2 deals them,
so that a checkpoint's pieces are boxes.
"""

import torch
from torch.nn import functional as F

from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.collectives import Purpose, gather_flat
from hanbit.parallel.grid import Axis
from hanbit.parallel.pieces import Piece, local_tensor, rows_of_each
from hanbit.parallel.replicas import fill_buckets


def own_rows(model: ParallelModel, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of `tensors`, which have the shapes of our pieces, the rows that this process updates, sharing their memory."""
    return {name: _rows(tensor, model.pieces[name], model.updated[name]) for name, tensor in tensors.items()}


def _rows(tensor: torch.Tensor, held: Piece, updated: Piece) -> torch.Tensor:
    return tensor.narrow(0, updated.offset[0] - held.offset[0], updated.size[0])


@torch.no_grad()
def gather_updated(model: ParallelModel) -> None:
    """Fill in the rows of our weights that other replicas have updated; nothing to do where all have all."""
    if model.updated == model.pieces:
        return
    grid = model.grid
    for axis, is_expert in ((grid.replicas, False), (grid.expert_replicas, True)):
        names = [name for name in model.trained if (name in model.expert_names) == is_expert]
        if axis.size > 1:
            for bucket in fill_buckets([model.trained[name] for name in names]):
                _gather([local_tensor(parameter) for parameter in bucket], axis)


def _gather(weights: list[torch.Tensor], axis: Axis) -> None:
    """One collective for all of them; short parts are filled up with zeros."""
    chunks = [rows_of_each(len(weight), axis) for weight in weights]
    own = [_padded(weight, chunk, axis.rank) for weight, chunk in zip(weights, chunks, strict=True)]
    gathered = gather_flat(torch.cat(own), axis, Purpose.UPDATE_GATHER)
    for weight, rows in zip(weights, gathered.split([len(part) for part in own], dim=1), strict=True):
        weight.copy_(rows.reshape(-1, *weight.shape[1:])[: len(weight)])


def _padded(weight: torch.Tensor, chunk: int, rank: int) -> torch.Tensor:
    """The rank-th `chunk` rows, flat."""
    rows = weight[rank * chunk : (rank + 1) * chunk].flatten()
    return F.pad(rows, (0, chunk * weight[:1].numel() - len(rows)))
