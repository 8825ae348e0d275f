"""Matrices of a model rounded by what their inputs are over a text: layer by layer, so that memory holds the model and
one hidden state a token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from hanbit.models.layers.attend import causal
from hanbit.models.layers.block import Block
from hanbit.models.layers.decoder import Decoder
from hanbit.quantize.awq import best_scale, folds
from hanbit.quantize.gptq import gptq
from hanbit.quantize.groups import Rounded, Scheme, rounded

METHODS = ("rtn", "gptq", "awq")
ENDS = ("embedding.weight", "output.weight")

Report = Callable[[str, float], None]


@dataclass
class Inputs:
    """Of a layer, over all tokens: sum of x x', [columns, columns]; sum of |x|, [columns]; how many tokens."""

    products: torch.Tensor
    sizes: torch.Tensor
    tokens: int = 0

    def add(self, rows: torch.Tensor) -> None:
        self.products.addmm_(rows.T, rows)
        self.sizes += rows.abs().sum(0)
        self.tokens += len(rows)


@torch.no_grad()
def calibrated(
    model: Decoder, schemes: Mapping[str, Scheme], method: str, tokens: torch.Tensor, report: Report
) -> dict[str, Rounded]:
    """The tensors of `schemes`, rounded by `method`, gptq or awq; the float32 model's own are changed with them.

    tokens: int64 [windows, length]. gptq sees inputs as the layers before, rounded already, give them; awq those of the
    float model. Embedding and output projection are rounded to nearest. Raises ValueError on numbers that cannot be
    rounded.
    """
    found = {name: rounded(model.get_parameter(name), schemes[name]) for name in ENDS if name in schemes}
    is_gptq = method == "gptq"
    if is_gptq and ENDS[0] in found:
        model.get_parameter(ENDS[0]).copy_(found[ENDS[0]].numbers())
    positions, attend = torch.arange(tokens.shape[1]), causal()
    rotation = model.rotation(positions)
    hidden = [model.embed(window[None], positions) for window in tokens]
    for count, (index, block) in enumerate(model.layers.items()):
        report(method, count / len(model.layers))
        assert isinstance(block, Block)
        prefix = f"layers.{index}."
        own = {name.removeprefix(prefix): one for name, one in schemes.items() if name.startswith(prefix)}
        turn, function = model.rotation_of(int(index), rotation), attend(int(index))

        run = partial(_run, block, hidden, turn, function)
        inputs, after = _inputs_of(block, run)
        made = _by_gptq(block, own, inputs) if is_gptq else _by_awq(block, own, inputs)
        found |= {prefix + name: one for name, one in made.items()}
        hidden = run() if is_gptq else after
    for name in ENDS:
        if name in found:
            model.get_parameter(name).copy_(found[name].numbers())
    return found


def _run(block: Block, hidden: list[torch.Tensor], turn: Any, function: Any) -> list[torch.Tensor]:
    return [block(one, turn, function) for one in hidden]


def _inputs_of(block: Block, run: Callable[[], list[torch.Tensor]]) -> tuple[dict[str, Inputs], list[torch.Tensor]]:
    """Of every linear layer in the block, by its name there; layers of the same input share theirs. And what `run`
    gave."""
    found: dict[str, Inputs] = {}
    seen: list[tuple[torch.Tensor, str]] = []  # the last input, and the layer that counted it

    def watch(name: str, rows: torch.Tensor) -> None:
        if seen and seen[0][0] is rows:
            found.setdefault(name, found[seen[0][1]])
            return
        width = rows.shape[-1]
        found.setdefault(name, Inputs(torch.zeros(width, width), torch.zeros(width)))
        found[name].add(rows.reshape(-1, width))
        seen[:] = [(rows, name)]

    handles = [
        layer.register_forward_pre_hook(lambda _, given, name=name: watch(name, given[0]))
        for name, layer in block.named_modules()
        if isinstance(layer, nn.Linear)
    ]
    after = run()
    for handle in handles:
        handle.remove()
    return found, after


def _by_gptq(block: Block, schemes: Mapping[str, Scheme], inputs: Mapping[str, Inputs]) -> dict[str, Rounded]:
    found = {}
    for name, scheme in schemes.items():
        parameter = block.get_parameter(name)
        found[name] = gptq(parameter, inputs[name.removesuffix(".weight")].products, scheme)
        parameter.copy_(found[name].numbers())
    return found


def _by_awq(block: Block, schemes: Mapping[str, Scheme], inputs: Mapping[str, Inputs]) -> dict[str, Rounded]:
    scales: dict[str, torch.Tensor] = {}
    for fold, names in folds(block):
        own, parameters = inputs[names[0]], [block.get_parameter(f"{name}.weight") for name in names]
        scheme = schemes.get(f"{names[0]}.weight")
        if scheme is None:
            continue  # stays float: nothing to win
        factors = best_scale(parameters, own.sizes / max(own.tokens, 1), own.products, scheme)
        fold(factors)
        for name, parameter in zip(names, parameters, strict=True):
            parameter.mul_(factors)
            scales[name] = factors
    found = {}
    for name, scheme in schemes.items():
        parameter, layer = block.get_parameter(name), name.removesuffix(".weight")
        importance = inputs[layer].products.diagonal() / scales.get(layer, torch.ones(1)).square()
        found[name] = rounded(parameter, scheme, importance)
        parameter.copy_(found[name].numbers())
    return found
