"""LoRA: a linear layer's product gets a low-rank addition, scale * B (A x) (Hu et al., arXiv 2106.09685).

The base model is frozen; A and B are the only parameters that learn. They are added to the whole model on the meta
device, before anything is cut, and come with their own rules of the plan. In a COLUMN layer every rank has all of A
and feeds its own rows of B, so A's gradient is partial: SHARED. In a ROW layer every rank has its own columns of A and
all of B, and the addition enters the sum that the layer makes anyway, so B's gradient is partial: SHARED too. No
collective is added to the forward or backward pass; the small SHARED gradients are summed once a step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from hanbit.common.errors import ConfigError
from hanbit.models.initial import seed_of
from hanbit.models.plan import Plan, Rule, Word

A, B = "lora.a", "lora.b"  # behind a linear layer's name


class Lora(nn.Module):
    """a [rank, inputs], b [outputs, rank]."""

    def __init__(self, inputs: int, outputs: int, rank: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.a = nn.Parameter(torch.empty(rank, inputs))
        self.b = nn.Parameter(torch.empty(outputs, rank))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(hidden, self.a) * self.scale, self.b)


class LoraLinear(nn.Linear):
    """A linear layer with an addition to its product; the bias comes after, and after the sum of a ROW layer."""

    lora: Lora

    def product(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.linear(hidden, self.weight) + self.lora(hidden)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        output = self.product(hidden)
        return output if self.bias is None else output + self.bias


def add_lora(model: nn.Module, plan: Plan, rank: int, scale: float, targets: Sequence[str] | None) -> Plan:
    """Freeze `model` and add A and B to its target layers; returns the plan with their rules.

    `targets`: last words of linear layers' names, such as `query`; None: every linear layer inside the blocks. Raises
    ConfigError on one that the model has not.
    """
    layers = dict(_linear_layers(model, plan.repeat))
    words = sorted({_last(name) for name in layers})
    unknown = [target for target in targets or () if target not in words]
    if unknown:
        raise ConfigError(f"tuning.targets names {unknown[0]}, which this model has not. It has {', '.join(words)}")
    model.requires_grad_(False)
    chosen = {name: layer for name, layer in layers.items() if targets is None or _last(name) in targets}
    for layer in chosen.values():
        lora = Lora(layer.in_features, layer.out_features, rank, scale)
        layer.__class__ = LoraLinear
        layer.lora = lora.to(layer.weight.device)
    return replace(plan, rules=(*plan.rules, *_rules(plan, chosen)))


def is_lora(name: str) -> bool:
    """Is this parameter's name that of an A or a B?"""
    return name.endswith((f".{A}", f".{B}"))


def initial_matrix(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """A uniform within 1 / sqrt(inputs), as peft has it, from the seed and the name alone; B zero."""
    if name.endswith(B):
        return torch.zeros(shape, device="cpu")
    bound = shape[1] ** -0.5
    generator = torch.Generator("cpu").manual_seed(seed_of(name, seed))
    return torch.empty(shape, device="cpu").uniform_(-bound, bound, generator=generator)


def _linear_layers(model: nn.Module, repeat: str) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in model.named_modules():
        if name.startswith(f"{repeat}.") and isinstance(module, nn.Linear):
            yield name, module


def _rules(plan: Plan, layers: dict[str, nn.Linear]) -> list[Rule]:
    """Two for each kind of layer, from the rule of the layer's own weight."""
    rules: dict[str, Rule] = {}
    for name in layers:
        repeat, _, rest = name.split(".", 2)
        own = plan.rule_of(f"{name}.weight")
        assert own.word in (Word.COLUMN, Word.ROW), f"{name} is {own.word}, which LoRA knows no rule for"
        cut, shared = (B, A) if own.word is Word.COLUMN else (A, B)
        module = f"{repeat}.*.{rest}"
        rules[f"{rest}.{cut}"] = Rule(f"{module}.{cut}", own.word, own.unit)
        rules[f"{rest}.{shared}"] = Rule(f"{module}.{shared}", Word.SHARED)
    return list(rules.values())


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
