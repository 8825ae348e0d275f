"""Recompute against the same blocks without it: the same gradients, fewer bytes held, other work in backward."""

import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hanbit.config.model import GPTConfig, LlamaConfig, ModelConfig
from hanbit.models.layers.attend import causal
from hanbit.models.registry import family_of
from hanbit.parallel.recompute import Kind, Recompute, chosen, recompute

MODELS: dict[str, ModelConfig] = {
    "llama": LlamaConfig(
        family="llama", layers=3, hidden=32, heads=4, key_value_heads=2, head_dim=8, inner=64, vocabulary=9
    ),
    "gpt": GPTConfig(family="gpt", layers=3, hidden=32, heads=4, inner=128, vocabulary=9),
}
PRODUCTS = {"llama": ("aten.mm.default", 7), "gpt": ("aten.addmm.default", 6)}  # of one block's forward pass
ATTENTION = "aten._scaled_dot_product_flash_attention_for_cpu.default"


class Watch(TorchDispatchMode):
    """Counts operations, and the bytes of what they made as long as anyone holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.held_bytes = 0
        self.alive: set[int] = set()
        self.operations: Counter[str] = Counter()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operations[str(operation)] += 1
        results = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(results):
            if isinstance(tensor, torch.Tensor):
                self._hold(tensor.untyped_storage())
        return results

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage._cdata not in self.alive:
            self.alive.add(storage._cdata)
            self.held_bytes += storage.nbytes()
            weakref.finalize(storage, self._forget, storage._cdata, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self.alive.discard(key)
        self.held_bytes -= size


def run(model: str, options: Recompute) -> tuple[int, Counter[str], list[torch.Tensor]]:
    """Bytes held between forward and backward, operations of backward, gradients."""
    torch.manual_seed(0)
    trunk: Any = family_of(MODELS[model]).build(MODELS[model])
    blocks: list[nn.Module] = list(trunk.layers.values())
    for block in chosen(blocks, options):
        recompute(block, options.kind)
    hidden = torch.randn(2, 32, 32, requires_grad=True)
    with Watch() as watch:
        output = trunk.trunk(hidden, torch.arange(32), causal())
        held, watch.operations = watch.held_bytes, Counter()
        output.square().sum().backward()
    parameters = [parameter for block in blocks for parameter in block.parameters()]
    return held, watch.operations, [hidden.grad, *(parameter.grad for parameter in parameters)]  # type: ignore[list-item]


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_gradients_are_the_same_bit_for_bit(model: str, kind: Kind) -> None:
    for mine, theirs in zip(run(model, Recompute(kind))[2], run(model, Recompute())[2], strict=True):
        assert torch.equal(mine, theirs)


def test_full_holds_less_than_selective_and_selective_less_than_none(model: str) -> None:
    kinds: tuple[Kind, ...] = ("none", "selective", "full")
    none, selective, full = (run(model, Recompute(kind))[0] for kind in kinds)
    assert full < 0.5 * selective < 0.5 * 0.8 * none


def test_selective_computes_attention_again_and_no_product(model: str) -> None:
    product, in_block = PRODUCTS[model]
    plain, selective, full = (run(model, Recompute(kind))[1] for kind in ("none", "selective", "full"))  # type: ignore[arg-type]
    assert (plain[ATTENTION], selective[ATTENTION], full[ATTENTION]) == (0, 3, 3)
    assert selective[product] == plain[product]
    assert full[product] == plain[product] + 3 * (in_block - 1)  # the last one's result is nobody's input in the block


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (Recompute("none"), []),
        (Recompute("full"), [0, 1, 2, 3, 4, 5]),
        (Recompute("full", layers=2), [0, 1]),
        (Recompute("selective", every=2), [0, 2, 4]),
        (Recompute("selective", layers=2, every=3), [0, 3]),
        (Recompute("full", layers=99), [0, 1, 2, 3, 4, 5]),
    ],
)
def test_which_blocks_forget(options: Recompute, wanted: list[int]) -> None:
    blocks: list[nn.Module] = [nn.Identity() for _ in range(6)]
    assert [blocks.index(block) for block in chosen(blocks, options)] == wanted


def test_fewer_blocks_hold_more(model: str) -> None:
    held: Callable[[Recompute], int] = lambda options: run(model, options)[0]  # noqa: E731
    assert held(Recompute("full")) < held(Recompute("full", layers=1)) < held(Recompute())
