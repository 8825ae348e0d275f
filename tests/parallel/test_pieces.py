import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from hanbit.models.plan import Rule, Word
from hanbit.parallel.grid import Axis
from hanbit.parallel.pieces import cut_by_rule, cut_rows, share, whole


@given(st.integers(0, 1000), st.integers(1, 17))
def test_shares_cover_everything_once_and_differ_by_at_most_one(total: int, size: int) -> None:
    shares = [share(total, Axis("a", size, rank)) for rank in range(size)]
    assert [index for start, length in shares for index in range(start, start + length)] == list(range(total))
    assert max(length for _, length in shares) - min(length for _, length in shares) <= 1


@given(st.sampled_from(["column", "row", "vocabulary"]), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_pieces_of_all_ranks_put_together_are_the_whole_tensor(word: str, size: int, unit: int, other: int) -> None:
    units = 7
    shape = (other, units * unit) if word == "row" else (units * unit, other)
    full = torch.arange(math.prod(shape)).reshape(shape)
    pieces = [
        cut_by_rule(whole("w", shape), Rule("w", Word(word), "heads"), units, Axis("tensor", size, rank))
        for rank in range(size)
    ]
    assert torch.equal(torch.cat([full[piece.slices] for piece in pieces], dim=1 if word == "row" else 0), full)
    assert all(piece.writes and piece.copies == 1 for piece in pieces)
    assert all(piece.size[1 if word == "row" else 0] % unit == 0 for piece in pieces)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_rows_that_replicas_update_are_each_row_of_a_piece_once(rows: int, size: int, offset: int) -> None:
    held = whole("w", (rows + offset, 2)).cut(0, offset, rows)
    full = torch.arange(2 * (rows + offset)).reshape(-1, 2)
    pieces = [cut_rows(held, Axis("replicas", size, rank)) for rank in range(size)]
    assert torch.equal(torch.cat([full[piece.slices] for piece in pieces]), full[held.slices])
    assert all(
        torch.equal(full[piece.slices], part)
        for piece, part in zip(pieces, full[held.slices].chunk(size), strict=False)
    )


def test_replicated_piece_is_counted_by_its_copies_and_written_once() -> None:
    pieces = [cut_by_rule(whole("n", (5,)), Rule("n", Word.REPLICATE), 1, Axis("tensor", 3, rank)) for rank in range(3)]
    assert [piece.writes for piece in pieces] == [True, False, False]
    assert all(piece.copies == 3 and piece.size == (5,) for piece in pieces)


def test_a_stack_is_cut_in_the_matrices_of_its_experts() -> None:
    rules = {word: Rule("s", word, "expert_inner", is_stack=True) for word in (Word.COLUMN, Word.ROW)}
    column = cut_by_rule(whole("s", (4, 6, 5)).cut(0, 2, 2), rules[Word.COLUMN], 6, Axis("tensor", 2, 1))
    assert (column.offset, column.size) == ((2, 3, 0), (2, 3, 5))
    row = cut_by_rule(whole("s", (4, 5, 6)), rules[Word.ROW], 6, Axis("tensor", 3, 1))
    assert (row.offset, row.size) == ((0, 0, 2), (4, 5, 2))


def test_bias_of_a_row_layer_stays_whole() -> None:
    piece = cut_by_rule(whole("b", (6,)), Rule("b", Word.ROW, "heads"), 2, Axis("tensor", 2, 1))
    assert piece.size == (6,)
    assert piece.copies == 2
