"""What a family's `huggingface.py` offers: its config and its tensors in Hugging Face's words, both ways.

A tensor of ours is made of one of theirs, of a part of it, or of a stack of several; one of theirs of one or several of
ours. `Source` says which, so that files can be read tensor by tensor.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from hanbit.common.errors import ModelError
from hanbit.config.model import ModelConfig


@dataclass(frozen=True)
class Source:
    """Where a tensor of ours lies in a Hugging Face file: `name`, perhaps transposed, perhaps with others of ours.

    part, parts: ours are the `part`-th rows of `parts`, all as many unless `sizes` says how many each part has.
    groups: so many times over, as where query, key and value of the first head come before those of the second.
    With `{}` in the name ours is a stack of theirs, which have their number there.
    """

    name: str
    part: int = 0
    parts: int = 1
    is_transposed: bool = False
    sizes: tuple[int, ...] = ()
    groups: int = 1

    @property
    def is_stack(self) -> bool:
        return "{}" in self.name

    def each(self, shape: tuple[int, ...]) -> "list[Source]":
        """The sources of the stack's tensors, for our `shape`; itself where ours is none."""
        if not self.is_stack:
            return [self]
        return [replace(self, name=self.name.format(number)) for number in range(shape[0])]

    def read(self, tensor: torch.Tensor) -> torch.Tensor:
        """Our tensor out of theirs; a view of it where its rows lie together."""
        rows = tensor.T if self.is_transposed else tensor
        if self.parts == 1:
            return rows
        own = rows.shape[0] // self.parts if not self.sizes else self.sizes[self.part]
        return self.rows_of(rows, own).flatten(0, 1)

    def rows_of(self, rows: torch.Tensor, own: int) -> torch.Tensor:
        """Ours, [groups, own / groups, ...], of all parts' `rows` [rows, ...]; a view. own: how many rows are ours."""
        sizes = [size // self.groups for size in self.sizes or (own,) * self.parts]
        start = sum(sizes[: self.part])
        return rows.unflatten(0, (self.groups, sum(sizes)))[:, start : start + sizes[self.part]]

    def all_rows(self, own: int) -> int:
        """Rows of all parts, where so many are ours."""
        return sum(self.sizes) if self.sizes else own * self.parts

    def shape_in_file(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        stored = (self.all_rows(shape[0]), *shape[1:])
        return stored[::-1] if self.is_transposed else stored


@dataclass(frozen=True)
class Adapter:
    """`config_from` raises ModelError on anything it cannot honour; nothing is dropped silently.

    `architectures` says which `model_type` each one has. `source_of(our name, config)` gives the place of a tensor;
    `prefix` is what some files leave out of every name; `is_constant(their name)` tells tensors of old files that can
    be computed; copies: their name -> whose numbers it repeats, in files that have both; current_name: what an old
    file's name is called today; task and auto_class: how the model card says what it is for and who loads it;
    cards: architecture -> both, where they are not the family's.
    """

    architectures: Mapping[str, str]
    config_from: Callable[[dict[str, Any]], ModelConfig]
    config_to: Callable[[Any], dict[str, Any]]
    source_of: Callable[[str, Any], Source]
    is_constant: Callable[[str], bool]
    prefix: str
    copies: Mapping[str, str] = field(default_factory=dict)
    current_name: Callable[[str], str] = str
    task: str = "text-generation"
    auto_class: str = "AutoModelForCausalLM"
    cards: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def has_no_constants(name: str) -> bool:
    """`is_constant` of a shape none of whose files has tensors that can be computed."""
    return False


def wanted(config: dict[str, Any], key: str, kind: type | tuple[type, ...], default: Any = ...) -> Any:
    """config[key], of that type, or the default; raises ModelError with key, value and rule."""
    value = config.get(key, default)
    if value is ...:
        raise ModelError(f"config.json has no {key}")
    if value is default:
        return value
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = " or ".join("null" if one is type(None) else one.__name__ for one in kinds)
        raise ModelError(f"config.json: {key}={_short(value)} must be {names}")
    return value


def number(config: dict[str, Any], key: str, default: Any = ...) -> Any:
    """config[key] as a float, or the default."""
    value = wanted(config, key, (int, float), default)
    try:
        return None if value is None else float(value)
    except OverflowError:
        raise ModelError(f"config.json: {key} is a number of {len(str(value))} digits") from None


def refuse_unless(config: dict[str, Any], key: str, allowed: tuple[Any, ...]) -> None:
    """A setting that changes the numbers and that only these values of are built here; an absent one is the first."""
    value = config.get(key, allowed[0])
    if value not in allowed:
        known = ", ".join(repr(one) for one in allowed)
        raise ModelError(f"config.json: {key}={_short(value)} is not built in hanbit; it reads {known}")


def under_one_name(config: dict[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    """The config with every alias's value under its key, too; ModelError where both are there and differ."""
    for alias, key in aliases.items():
        if alias in config:
            if config.get(key, config[alias]) != config[alias]:
                raise ModelError(f"config.json: {alias} and {key} are the same, yet differ. Remove one")
            config = {**config, key: config[alias]}
    return config


def refuse_uneven(key: str, divisor: int, whole_key: str, whole: int) -> None:
    """`divisor` has to divide `whole`; numbers below one are the config class's to refuse."""
    if divisor > 0 and whole % divisor:
        raise ModelError(f"config.json: {key}={divisor} does not divide {whole_key}={whole}")


def _short(value: Any) -> str:
    """What a hostile file holds is not repeated at any length."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
