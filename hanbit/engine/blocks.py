"""Who has which block of the cache, and which blocks hold a beginning that another prompt may share. No torch.

A block is room for the keys and values of `block_size` tokens. A full one is known by its key, a hash of every token
up to its end; it keeps that key after its last owner has left, until the room is needed, so that a prompt which begins
the same way finds it. Only full blocks are shared, and those are never written again; one that is not full is copied
for a beam that goes on in two ways, and for nothing else.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

Key = bytes
_KEY_BYTES = 16  # of a hash that nobody can aim at another's: two beginnings with one key would share an answer


class Blocks:
    """Blocks 0..num_blocks, each free or with owners. Free ones go out oldest first, those without a key first."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks > 0
        assert block_size > 0
        self.num_blocks, self.block_size = num_blocks, block_size
        self._owners = [0] * num_blocks
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(num_blocks))
        self._keys: list[Key | None] = [None] * num_blocks
        self._by_key: dict[Key, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks without an owner, with or without a key."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    @property
    def num_tokens(self) -> int:
        """Tokens that fit in all blocks together."""
        return self.num_blocks * self.block_size

    def needed(self, tokens: int) -> int:
        """How many blocks so many tokens of one sequence take."""
        return -(-tokens // self.block_size)

    def take(self) -> int:
        """A free block, whose key is forgotten. There must be one."""
        block, _ = self._free.popitem(last=False)
        self._forget(block)
        self._owners[block] = 1
        return block

    def find(self, keys: Iterable[Key]) -> list[int]:
        """The blocks of as many of the first keys as are known, in order; they get no owner by it."""
        found: list[int] = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def num_free_among(self, found: Iterable[int]) -> int:
        return sum(self._owners[block] == 0 for block in found)

    def share(self, block: int) -> None:
        """One more owner for a block that `find` gave."""
        if self._owners[block] == 0:
            del self._free[block]
        self._owners[block] += 1

    def know(self, block: int, key: Key) -> None:
        """The block is full and holds what this key stands for. Nothing if another block does already."""
        assert self._owners[block] > 0
        if key not in self._by_key and self._keys[block] is None:
            self._keys[block], self._by_key[key] = key, block

    def release(self, blocks: Sequence[int]) -> None:
        """One owner of these leaves. A sequence's end is given away before its beginning, which more may share."""
        for block in reversed(blocks):
            assert self._owners[block] > 0, f"block {block} is free already"
            self._owners[block] -= 1
            if self._owners[block] == 0:
                self._free[block] = None
                self._free.move_to_end(block, last=self._keys[block] is not None)

    def forget(self, blocks: Iterable[int]) -> None:
        """Nobody shall find these any more: what they hold may be no numbers."""
        for block in blocks:
            self._forget(block)

    def _forget(self, block: int) -> None:
        key, self._keys[block] = self._keys[block], None
        if key is not None:
            del self._by_key[key]


def extend_keys(keys: list[Key], root: Key, tokens: Sequence[int], block_size: int) -> None:
    """Append the keys of further full blocks of `tokens`. `root`: what else the numbers depend on (the adapter)."""
    for start in range(len(keys) * block_size, len(tokens) - block_size + 1, block_size):
        part = array("q", tokens[start : start + block_size]).tobytes()
        before = keys[-1] if keys else root
        keys.append(hashlib.blake2b(part, digest_size=_KEY_BYTES, key=before).digest())
