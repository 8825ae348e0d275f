"""Blocks go out and come back: none twice, none lost, and a known one is found until its room is needed."""

import pytest

from hanbit.engine.blocks import Blocks, extend_keys


def keys_of(tokens: list[int], root: bytes = b"", size: int = 4) -> list[bytes]:
    keys: list[bytes] = []
    extend_keys(keys, root, tokens, size)
    return keys


def test_a_key_stands_for_every_token_up_to_the_end_of_its_block_and_for_the_adapter() -> None:
    tokens = list(range(12))
    keys = keys_of(tokens)
    assert len(keys) == 3
    assert keys_of(tokens[:11]) == keys[:2]  # only full blocks have one
    other = keys_of([0, 1, 2, 99, *tokens[4:]])
    assert not set(other) & set(keys)  # also of the blocks behind the difference
    assert not set(keys_of(tokens, b"adapter")) & set(keys)
    grown = keys_of(tokens[:9])
    extend_keys(grown, b"", tokens, 4)
    assert grown == keys


def test_blocks_without_a_key_go_out_before_those_that_may_be_found_and_the_oldest_first() -> None:
    blocks = Blocks(4, 4)
    taken = [blocks.take() for _ in range(4)]
    for block, key in zip(taken, (b"a", b"b", b"c"), strict=False):
        blocks.know(block, key)
    blocks.release(taken[:1])
    blocks.release(taken[1:])
    assert blocks.num_free == 4
    assert blocks.find([b"a", b"b", b"c"]) == taken[:3]
    assert [blocks.take() for _ in range(4)] == [taken[3], taken[0], taken[2], taken[1]]  # a sequence's end before
    assert blocks.find([b"a"]) == []  # its beginning
    with pytest.raises(KeyError):
        blocks.take()


def test_a_shared_block_is_free_when_its_last_owner_has_left() -> None:
    blocks = Blocks(2, 4)
    block = blocks.take()
    blocks.know(block, b"a")
    blocks.share(block)
    blocks.release([block])
    assert (blocks.num_used, blocks.num_free_among([block])) == (1, 0)
    blocks.release([block])
    assert (blocks.num_used, blocks.num_free_among([block])) == (0, 1)
    blocks.share(block)  # found again before it was needed
    assert blocks.num_used == 1
    with pytest.raises(AssertionError, match="free already"):
        blocks.release([block, block])


def test_the_second_block_with_a_key_does_not_take_it_and_a_forgotten_one_is_not_found() -> None:
    blocks = Blocks(3, 4)
    first, second = blocks.take(), blocks.take()
    blocks.know(first, b"a")
    blocks.know(second, b"a")
    assert blocks.find([b"a", b"b"]) == [first]
    blocks.forget([first, second])
    assert blocks.find([b"a"]) == []
