"""Attention over a sequence that several processes share, against one process that has all of it."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from hanbit.parallel.context import causal_over, own_part
from hanbit.parallel.grid import Axis, make_grid
from tests.processes.group import run_in_group

TIME = 24
SLOPES = (0.5, 0.25, 0.1, 0.03)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """q of 4 heads, k and v of 2, what comes back from above; [sequences, time, heads, head_dim]."""
    torch.manual_seed(0)
    return tuple(torch.randn(2, TIME, heads, 8) for heads in (4, 2, 2, 4))  # type: ignore[return-value]


def documents(is_packed: bool) -> dict[str, torch.Tensor]:
    """Borders at other places in each row, not at those where the sequence is cut."""
    rows = [[0] * 5 + [1] * 12 + [2] * 7, [0] * 20 + [1] * 4]
    return {"documents": torch.tensor(rows)} if is_packed else {}


@dataclass(frozen=True)
class Kind:
    """Of attention: what its layer has, and whether rows are packed documents."""

    window: int | None = None
    is_packed: bool = False
    cap: float | None = None
    slopes: tuple[float, ...] | None = None

    @property
    def layer(self) -> Any:
        return SimpleNamespace(scale=8**-0.5, sliding_window=self.window, score_cap=self.cap, alibi_slopes=self.slopes)


def wanted(kind: Kind) -> list[torch.Tensor]:
    """Output and gradients of q, k, v by a mask and a fall of scores that plain loops fill."""
    q, k, v, above = (tensor.requires_grad_() for tensor in inputs())
    mask, fall = torch.zeros(2, 1, TIME, TIME, dtype=torch.bool), torch.zeros(4, TIME, TIME)
    for row in range(2):
        for query in range(TIME):
            for key in range(query + 1):
                near = kind.window is None or query - key < kind.window
                document = documents(True)["documents"][row]
                mask[row, 0, query, key] = near and (not kind.is_packed or bool(document[query] == document[key]))
                for head, slope in enumerate(kind.slopes or ()):
                    fall[head, query, key] = slope * (query - key)
    scores = torch.einsum("sqhd,skhd->shqk", q, k.repeat_interleave(2, 2)) * 8**-0.5
    scores = scores if kind.cap is None else (scores / kind.cap).tanh() * kind.cap
    scores = scores - fall
    weights = F.softmax(scores.masked_fill(~mask, -torch.inf), -1)
    output = torch.einsum("shqk,skhd->sqhd", weights, v.repeat_interleave(2, 2))
    (output * above).sum().backward()
    return [output.detach(), *(tensor.grad for tensor in (q, k, v))]  # type: ignore[list-item]


def places(axis: Axis) -> torch.Tensor:
    return own_part({"tokens": torch.zeros(2, TIME, dtype=torch.int64)}, axis)["positions"]


def on_one_rank(size: int, kinds: list[Kind]) -> list[Any]:
    axis = make_grid(1, 1, 1, torch.device("cpu"), context=size).context
    ours = places(axis)
    found = []
    for kind in kinds:
        batch = {"tokens": torch.zeros(2, TIME, dtype=torch.int64), **documents(kind.is_packed)}
        q, k, v, above = (tensor[:, ours].clone().requires_grad_() for tensor in inputs())
        output = causal_over(axis)(batch)(0)(kind.layer, q, k, v)
        (output * above).sum().backward()
        found.append([output.detach(), q.grad, k.grad, v.grad])
    return [ours, found]


@pytest.mark.parametrize("size", [2, 3])
def test_parts_of_a_sequence_attend_as_the_whole(size: int) -> None:
    kinds = [Kind(), Kind(7), Kind(None, True), Kind(7, True)]
    kinds += [Kind(7, True, cap=0.5), Kind(cap=0.5), Kind(slopes=SLOPES), Kind(7, True, slopes=SLOPES)]
    ranks = run_in_group(size, on_one_rank, size, kinds)
    order = torch.cat([ours for ours, _ in ranks])
    assert sorted(order.tolist()) == list(range(TIME))
    for index, kind in enumerate(kinds):
        for which, whole in enumerate(wanted(kind)):
            together = torch.cat([found[index][which] for _, found in ranks], 1)
            torch.testing.assert_close(together, whole[:, order])


def test_each_has_an_early_and_a_late_part_so_that_all_look_at_as_many_tokens() -> None:
    seen = [sum(place + 1 for place in places(Axis("context", 3, rank)).tolist()) for rank in range(3)]
    assert seen == [100, 100, 100]
    assert places(Axis("context", 3, 1)).tolist() == [4, 5, 6, 7, 16, 17, 18, 19]


def test_what_goes_along_with_the_tokens_is_cut_alike() -> None:
    tokens = torch.arange(TIME).reshape(1, -1)
    positions = tokens % 5
    part = own_part({"tokens": tokens, "targets": tokens + 1, "positions": positions}, Axis("context", 2, 0))
    assert part["tokens"].tolist() == [[*range(6), *range(18, 24)]]
    assert torch.equal(part["targets"], part["tokens"] + 1)
    assert torch.equal(part["positions"], part["tokens"] % 5)


def test_alone_a_batch_stays_as_it_is() -> None:
    batch = {"tokens": torch.zeros(1, 5, dtype=torch.int64)}
    assert own_part(batch, Axis("context")) is batch
