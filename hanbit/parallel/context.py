"""Context parallelism: each process of the context axis holds a part of every sequence, and attends to all of it.

A sequence is cut into twice as many parts as there are processes; each takes one early and one late part, since a late
token looks at many and an early one at few (as Megatron-LM and Llama 3 do, arXiv 2407.21783, section 3.3.2). Everything
but attention works on single tokens and never knows. Keys and values of all parts are gathered for each layer; in
backward their gradients are summed and each process keeps those of its own.
"""

from collections.abc import Callable
from functools import cache, partial

import torch

from hanbit.models.batch import Batch, positions_of
from hanbit.models.layers.alibi import biased_mask
from hanbit.models.layers.attend import MakeAttend, product
from hanbit.models.layers.attention import Attend, Attention
from hanbit.parallel.collectives import SEQUENCE_DIM, Purpose, gather
from hanbit.parallel.grid import Axis

KeysOf = Callable[[int, int | None], tuple[slice, torch.Tensor]]  # kept for all layers: masks live until backward


def own_part(batch: Batch, axis: Axis) -> Batch:
    """Our early and our late part of every sequence, with the positions that they had in the whole."""
    if axis.size == 1:
        return batch
    whole = {**batch, "positions": positions_of(batch)}
    early, late = parts_of(axis)
    cut = {name: tensor.chunk(2 * axis.size, -1) for name, tensor in whole.items()}
    return {name: torch.cat((parts[early], parts[late]), -1) for name, parts in cut.items()}


def parts_of(axis: Axis) -> tuple[int, int]:
    """The numbers of our two parts, of 2 x size."""
    return axis.rank, 2 * axis.size - 1 - axis.rank


def causal_over(axis: Axis) -> MakeAttend:
    """Attention from our parts to all earlier tokens; documents of a packed row do not see each other.

    What it makes is called with the whole micro-batch, and its functions with q, k, v of our parts.
    """

    def make_attend(batch: Batch) -> Attend:
        time = batch["tokens"].shape[-1] // (2 * axis.size)
        keys_of = cache(partial(_keys_of, time, batch.get("documents"), batch["tokens"].device))
        function = partial(_attend, axis, keys_of)
        return lambda index: function

    return make_attend


def _attend(
    axis: Axis, keys_of: KeysOf, layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """q [sequences, time / size, heads, head_dim], k, v alike with key-value heads -> as q."""
    keys, values = _gathered(torch.cat((k, v), -2), axis).chunk(2, -2)
    outputs = []
    for number, queries in zip(parts_of(axis), q.chunk(2, SEQUENCE_DIM), strict=True):
        seen, mask = keys_of(number, layer.sliding_window)
        if layer.alibi_slopes is not None:
            back = _back(number, queries.shape[SEQUENCE_DIM], seen.start, q.device)
            mask = biased_mask(mask, back, layer.alibi_slopes, q.dtype)
        outputs.append(_product(layer, queries, keys[:, seen], values[:, seen], mask))
    return torch.cat(outputs, SEQUENCE_DIM)


def _gathered(tensor: torch.Tensor, axis: Axis) -> torch.Tensor:
    """The whole sequence in its own order, from parts that come in the order of ranks: 0, 3, 1, 2 over two."""
    gathered = gather(tensor, axis, Purpose.CONTEXT_GATHER, Purpose.CONTEXT_SCATTER)
    parts = gathered.chunk(2 * axis.size, SEQUENCE_DIM)
    return torch.cat((*parts[0::2], *reversed(parts[1::2])), SEQUENCE_DIM)


def _product(layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    q, k, v = q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3)
    return product(layer, q, k, v, mask).transpose(-2, -3)


def _keys_of(
    time: int, documents: torch.Tensor | None, device: torch.device, number: int, window: int | None
) -> tuple[slice, torch.Tensor]:
    """Which keys part `number`, of `time` tokens, may see at all, and a mask that is true where a query sees a key.

    documents: [sequences, whole time]; with them the mask is [sequences, 1, queries, keys], else [queries, keys].
    """
    start, end = number * time, (number + 1) * time
    first = 0 if window is None else max(0, start - window + 1)
    back = _back(number, time, first, device)
    mask = back >= 0
    if window is not None:
        mask &= back < window
    if documents is not None:
        same = documents[:, start:end].unsqueeze(2) == documents[:, first:end].unsqueeze(1)
        mask = (mask & same).unsqueeze(1)
    return slice(first, end), mask


def _back(number: int, time: int, first: int, device: torch.device) -> torch.Tensor:
    """How many tokens part `number` looks back to each key, [queries, keys], from key `first` to the part's end."""
    start, end = number * time, (number + 1) * time
    return torch.arange(start, end, device=device).unsqueeze(1) - torch.arange(first, end, device=device)
