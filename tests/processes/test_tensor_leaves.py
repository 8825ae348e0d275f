"""The tensor-parallel leaves and loss, two or three processes against torch's own layers in one."""

import itertools
from dataclasses import replace
from unittest import mock

import pytest
import torch
from torch.nn import functional as F

from hanbit.parallel.collectives import Purpose, all_reduce, enter, leave
from hanbit.parallel.grid import Axis, make_grid
from hanbit.parallel.loss import next_token_loss
from hanbit.parallel.pieces import share
from hanbit.parallel.tensor import VocabularyEmbedding
from tests.processes.group import run_in_group

VOCABULARY = 13  # odd: uneven over two and three processes


def loss_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 6, 8), 3 * torch.randn(VOCABULARY, 8), torch.randint(VOCABULARY, (4, 6))


def loss_on_one_rank(size: int) -> tuple[float, torch.Tensor, torch.Tensor]:
    hidden, full, targets = loss_inputs()
    axis = make_grid(1, 1, size, torch.device("cpu")).tensor
    start, count = share(VOCABULARY, axis)
    hidden.requires_grad_()
    weight = full[start : start + count].clone().requires_grad_()
    loss = next_token_loss(hidden, weight, targets, axis, start)
    (2 * loss).backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    return loss.item(), hidden.grad, weight.grad


@pytest.mark.parametrize("size", [1, 2, 3])
def test_loss_over_a_cut_vocabulary_equals_torchs_cross_entropy(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanbit.parallel.loss.CHUNK_BYTES", 4 * VOCABULARY * 5)  # chunks of 5 of the 24 tokens
    results = run_in_group(size, loss_on_one_rank, size) if size > 1 else [loss_on_one_rank(1)]
    hidden, full, targets = loss_inputs()
    hidden.requires_grad_()
    full.requires_grad_()
    wanted = F.cross_entropy(F.linear(hidden, full).flatten(0, 1), targets.flatten(), reduction="sum")
    (2 * wanted).backward()
    for loss, gradient, _ in results:
        assert loss == pytest.approx(wanted.item(), rel=1e-6)
        torch.testing.assert_close(gradient, hidden.grad)
    torch.testing.assert_close(torch.cat([gradient for _, _, gradient in results]), full.grad)


def embedding_on_one_rank(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    full, tokens = torch.randn(VOCABULARY, 4), torch.randint(VOCABULARY, (3, 5))
    axis = make_grid(1, 1, size, torch.device("cpu")).tensor
    start, count = share(VOCABULARY, axis)
    layer = torch.nn.Embedding(count, 4)
    layer.weight = torch.nn.Parameter(full[start : start + count].clone())
    layer.__class__ = VocabularyEmbedding
    layer.axis, layer.first_id = axis, start  # type: ignore[assignment]
    output = layer(tokens)
    output.square().sum().backward()
    assert layer.weight.grad is not None
    return output.detach(), layer.weight.grad


def test_embedding_cut_by_token_id_equals_the_whole_one() -> None:
    results = run_in_group(2, embedding_on_one_rank, 2)
    torch.manual_seed(0)
    full, tokens = torch.randn(VOCABULARY, 4).requires_grad_(), torch.randint(VOCABULARY, (3, 5))
    wanted = F.embedding(tokens, full)
    wanted.square().sum().backward()
    for output, _ in results:
        assert torch.equal(output, wanted)
    torch.testing.assert_close(torch.cat([gradient for _, gradient in results]), full.grad)


def region_inputs(*shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(8, 6), torch.randn(6, 8), torch.randn(*shape, 6)


def region_on_one_rank(compiled: bool, shape: tuple[int, ...], splits: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """splits: of the second dim of the inputs each process has its half, and so of the outputs."""
    first, second, inputs = region_inputs(*shape)
    axis = replace(make_grid(1, 1, 2, torch.device("cpu")).tensor, splits_sequence=splits)
    rows = slice(axis.rank * 4, axis.rank * 4 + 4)
    inputs = (inputs.chunk(2, 1)[axis.rank] if splits else inputs).clone().requires_grad_()

    def region(x: torch.Tensor) -> torch.Tensor:
        x = enter(x, axis, Purpose.REGION_ENTER)
        return leave(F.linear(F.silu(F.linear(x, first[rows])), second[:, rows]), axis, Purpose.ROW_LEAVE)

    output = (torch.compile(region, backend="aot_eager", fullgraph=True) if compiled else region)(inputs)
    output.square().sum().backward()
    assert inputs.grad is not None
    return output.detach(), inputs.grad


REGIONS = list(itertools.product([False, True], [((3,), False), ((1, 4), True), ((3, 4), True)]))


def regions_on_one_rank() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [region_on_one_rank(compiled, *of) for compiled, of in REGIONS]


@pytest.fixture(scope="module")
def regions() -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Of each rank all of them, in one group of processes."""
    return run_in_group(2, regions_on_one_rank)


@pytest.mark.parametrize("compiled", [False, True])
def test_region_equals_the_whole_layers_also_when_compiled(
    compiled: bool, regions: list[list[tuple[torch.Tensor, torch.Tensor]]]
) -> None:
    wanted = whole_region(3)
    for rank in regions:
        torch.testing.assert_close(rank[REGIONS.index((compiled, ((3,), False)))], wanted)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("sequences", [1, 3])
def test_so_it_does_where_each_has_a_part_of_the_sequence(
    compiled: bool, sequences: int, regions: list[list[tuple[torch.Tensor, torch.Tensor]]]
) -> None:
    index = REGIONS.index((compiled, ((sequences, 4), True)))
    for parts, wanted in zip(
        zip(*[rank[index] for rank in regions], strict=True), whole_region(sequences, 4), strict=True
    ):
        torch.testing.assert_close(torch.cat(parts, 1), wanted)


def whole_region(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    first, second, inputs = region_inputs(*shape)
    inputs.requires_grad_()
    output = F.linear(F.silu(F.linear(inputs, first)), second)
    output.square().sum().backward()
    assert inputs.grad is not None
    return output.detach(), inputs.grad


def test_a_bare_sum_refuses_what_needs_a_gradient() -> None:
    axis = Axis("tensor", size=2, group=mock.Mock())
    with pytest.raises(AssertionError, match="gradient would be lost"):
        all_reduce(torch.ones(2, requires_grad=True), axis, Purpose.ROW_LEAVE)
