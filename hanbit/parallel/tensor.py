"""Tensor parallelism: leaf modules that take the place of a family's own, chosen by the plan's words.

Parameters become the slice that this rank owns, as plain tensors; names stay. COLUMN layers need no other code:
`nn.Linear` on fewer rows gives fewer features. ROW layers sum their outputs, regions sum their input's gradient,
embeddings look up only their own ids; the output projection's slice goes to `parallel.loss` as it is.

Where the axis splits the sequence (Korthikanti et al., arXiv 2205.05198), a region gathers its input and scatters its
output along time, and everything between regions, norms and the residual stream, sees its own part of the sequence.
`module.__class__ = ...` keeps everything else of the module as it was.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.models.plan import Plan, Word
from hanbit.parallel.collectives import Purpose, enter, leave, part_of_sequence
from hanbit.parallel.grid import Axis
from hanbit.parallel.pieces import Piece, cut_by_rule, share, whole


class RowSum:
    """Input features are cut: each rank's `product` is a part of the sum; the bias is added once, after it."""

    axis: Axis
    bias: Any
    product: Callable[[torch.Tensor], torch.Tensor]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output = leave(self.product(hidden), self.axis, Purpose.ROW_LEAVE)
        return output if self.bias is None else output + self.bias


class Row(RowSum, nn.Linear):
    def product(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.weight)


class VocabularyEmbedding(nn.Embedding):
    """Rows are cut by token id: ids of other ranks give zeros here, and the sum puts all together."""

    axis: Axis
    first_id: int

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        local = tokens - self.first_id
        outside = (local < 0) | (local >= self.weight.shape[0])
        rows = F.embedding(local.masked_fill(outside, 0), self.weight)
        return leave(rows.masked_fill(outside.unsqueeze(-1), 0.0), self.axis, Purpose.EMBEDDING_LEAVE)


class PartEmbedding(nn.Embedding):
    """A whole embedding, of positions or kinds of token, looked up for our part of the sequence."""

    axis: Axis

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(part_of_sequence(ids, self.axis), self.weight)


def cut_parameters(model: nn.Module, plan: Plan, units: dict[str, int], axis: Axis, expert: Axis) -> dict[str, Piece]:
    """Give `model` (on the meta device) this rank's slices; returns the piece of every parameter by name.

    axis: the tensor's; stacks of experts are cut over `expert` first. `units` tells how many units each of the plan's
    unit names has, e.g. {"heads": 16}.
    """
    pieces: dict[str, Piece] = {}
    for module_name, module in list(model.named_modules()):
        for short, parameter in list(module.named_parameters(recurse=False)):
            name = f"{module_name}.{short}" if module_name else short
            rule = plan.rule_of(name)
            count = units[rule.unit] if rule.unit else 1
            piece = whole(name, tuple(parameter.shape))
            piece = piece.cut(0, *share(piece.shape[0], expert)) if rule.is_stack else piece
            pieces[name] = cut_by_rule(piece, rule, count, axis)
            if pieces[name].size != tuple(parameter.shape):
                cut = nn.Parameter(parameter.new_empty(pieces[name].size), parameter.requires_grad)
                module.register_parameter(short, cut)
    return pieces


def is_partial(name: str, plan: Plan, piece: Piece, axis: Axis) -> bool:
    """Is the gradient of this parameter a part of the sum over the axis? Then it must be summed once a step.

    SHARED weights are used on some heads. Where the sequence is split, so is what whole weights between the regions see
    of it, and the bias of a ROW layer, which is added behind the scatter.
    """
    word = plan.rule_of(name).word
    if word is Word.SHARED or not axis.splits_sequence:
        return word is Word.SHARED
    is_row_bias = word is Word.ROW and len(piece.shape) == 1
    return is_row_bias or (word is Word.REPLICATE and not plan.is_in_region(name))


def swap_leaves(model: nn.Module, plan: Plan, pieces: dict[str, Piece], axis: Axis) -> None:
    """Put the parallel leaves in place of the family's own modules; nothing to do on an axis of one."""
    if axis.size == 1:
        return
    for name, module in model.named_modules():
        if plan.is_region(name):
            _keep_own_slopes(module, pieces.get(f"{name}.query.weight"))
            _make_region(module, axis)
        weight = pieces.get(f"{name}.weight")
        if weight is not None:
            _swap_leaf(module, plan.rule_of(weight.name).word, weight, axis)


def _keep_own_slopes(module: Any, query: Piece | None) -> None:
    """Of attention with ALiBi: slopes of the heads whose queries are made here."""
    if query is None or module.alibi_slopes is None:
        return
    first, count = query.offset[0] // module.head_dim, query.size[0] // module.head_dim
    module.alibi_slopes = module.alibi_slopes[first : first + count]


def _swap_leaf(module: nn.Module, word: Word, weight: Piece, axis: Axis) -> None:
    if word is Word.ROW:
        module.__class__ = _row_of(type(module))
    elif word is Word.VOCABULARY and isinstance(module, nn.Embedding):
        module.__class__ = VocabularyEmbedding
        module.first_id = weight.offset[0]  # type: ignore[assignment]
    elif word is Word.REPLICATE and isinstance(module, nn.Embedding) and axis.splits_sequence:
        module.__class__ = PartEmbedding
    else:
        return
    module.axis = axis  # type: ignore[assignment]


def _row_of(original: type[nn.Module]) -> type[nn.Module]:
    """A linear layer that says what its product is (LoRA's) keeps it, and only sums it."""
    return Row if original is nn.Linear else cast(Any, type(f"Row{original.__name__}", (RowSum, original), {}))


def _make_region(module: nn.Module, axis: Axis) -> None:
    """The same module, whose tensors enter the tensor axis once for all its linear layers: of attention to an encoder
    what the encoder gave, too."""
    original = type(module)

    class Region(original):  # type: ignore[misc, valid-type]
        def forward(self, *inputs: object) -> torch.Tensor:
            return super().forward(*(_entered(one, axis) for one in inputs))

    Region.__name__ = f"Parallel{original.__name__}"
    module.__class__ = Region


def _entered(value: object, axis: Axis) -> object:
    return enter(value, axis, Purpose.REGION_ENTER) if isinstance(value, torch.Tensor) else value
