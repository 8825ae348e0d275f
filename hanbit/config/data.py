"""The section `data`: one source, a blend of several, or named sets; and which part of them is which.

Blends may be written as NeMo and Megatron-LM write them, `[weight, path, weight, path]`; they are read into the same
sources.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from hanbit.config.section import Section

Name = Annotated[str, Field(pattern=r"^[^/\\\s.\-][^/\\\s]*$", max_length=80)]


class Source(Section):
    """One source of a blend."""

    path: str = Field(description="As `data.train`: folder, prefix of token files, or file of conversations.")
    weight: float | None = Field(
        None, gt=0, description="Share of the samples, beside the other weights; null in all: by their sizes."
    )
    name: Name | None = Field(None, description="What messages and metrics call it; null: the folder's or file's name.")


def _sources(value: Any) -> Any:
    """A flat list, with or without weights, as sources; anything else as it is."""
    if not isinstance(value, list) or not value or any(isinstance(item, dict | list) for item in value):
        return value
    weights = [_number(item) for item in value]
    if not any(isinstance(weight, float) for weight in weights):
        return [{"path": item} for item in value]
    is_paired = len(value) % 2 == 0 and all((place % 2 == 0) == (w is not None) for place, w in enumerate(weights))
    if not is_paired:
        raise PydanticCustomError("pairs", "weight, path, weight, path")
    return [{"path": path, "weight": w} for path, w in zip(value[1::2], weights[::2], strict=True)]


def _number(item: Any) -> float | None:
    try:
        return None if isinstance(item, bool) else float(item)
    except (TypeError, ValueError):
        return None


def _form(value: Any) -> str:
    forms: dict[type, str] = {list: "blend", dict: "sets", type(None): "none"}
    return next((form for kind, form in forms.items() if isinstance(value, kind)), "path")


_Path = Annotated[str, Tag("path")]
_Blend = Annotated[Annotated[list[Source], Field(min_length=1), BeforeValidator(_sources)], Tag("blend")]
Blend = Annotated[_Path | _Blend, Discriminator(lambda value: "blend" if isinstance(value, list) else "path")]
_Sets = Annotated[dict[Name, Blend], Field(min_length=1), Tag("sets")]


def _three_shares(value: Any) -> Any:
    if isinstance(value, str) and (not re.fullmatch(r"[\d.]+(,[\d.]+){0,2}", value) or not any(shares(value))):
        raise PydanticCustomError("three_shares", "three shares")
    return value


def shares(text: str) -> tuple[float, float, float]:
    """Megatron's "969,30,1" as shares of the documents for training, validation and test; they sum to 1, or are 0."""
    try:
        parts = [float(part) for part in text.split(",")]
    except ValueError:
        return 0.0, 0.0, 0.0
    total = sum(parts)
    first, second, third = [part / total if total else 0.0 for part in [*parts, 0.0, 0.0]][:3]
    return first, second, third


class DataSection(Section):
    """What to train and validate on."""

    train: Blend = Field(
        description="Folder that `hanbit prepare` made, or prefix of Megatron token files (`PREFIX.bin`, `PREFIX.idx`)"
        "; a .jsonl file of conversations, or json-answers, a small set of hanbit's own. Or a blend, a list of "
        "`{path, weight, name}`."
    )
    validation: Annotated[_Path | _Blend | _Sets | Annotated[None, Tag("none")], Discriminator(_form)] = Field(
        None,
        description="Same, for validation; or named sets, `name: path`, each with a loss of its own. null: the part of "
        "train that `split` leaves.",
    )
    split: Annotated[float, Field(ge=0, lt=1)] | Annotated[str, BeforeValidator(_three_shares)] = Field(
        0.01,
        description="Share of train's sequences kept for validation when none is named; or, as in Megatron-LM, shares "
        'of the documents for training, validation and test: "969,30,1".',
    )
    kind: Literal["tokens", "conversations"] | None = Field(
        None, description="What the paths are; null: conversations for `hanbit tune` and for .jsonl files, else tokens."
    )
    packing: Literal["none", "documents"] = Field(
        "none",
        description="documents: no token attends to another document, positions restart in each, and conversations "
        "share sequences.",
    )
    verify: bool = Field(
        True, description="Compare token files with the SHA-256 in their manifest before the first step."
    )
    too_long: Literal["refuse", "truncate"] = Field(
        "refuse", description="Conversations beyond `batch.sequence_length`; truncate: their ends are cut off."
    )

    @property
    def is_conversations(self) -> bool:
        """Where the recipe has no section `tuning`, which decides alone."""
        if self.kind is not None:
            return self.kind == "conversations"
        return all(source.path.endswith((".jsonl", ".jsonl.gz")) for source in sources(self.train))

    @property
    def validation_sets(self) -> dict[str, list[Source]]:
        """Set name -> its blend; "" for the one set that has no name. Empty: validation is train's `split`."""
        if self.validation is None:
            return {}
        if isinstance(self.validation, dict):
            return {name: sources(blend) for name, blend in self.validation.items()}
        return {"": sources(self.validation)}


def sources(blend: str | list[Source]) -> list[Source]:
    """One or several, each with a name that no other has."""
    found = [Source(path=blend)] if isinstance(blend, str) else blend
    names: list[str] = []
    for source in found:
        name = source.name or _name_of(source.path)
        names.append(name if name not in names else f"{name}-{len(names) + 1}")
    return [source.model_copy(update={"name": name}) for source, name in zip(found, names, strict=True)]


def _name_of(path: str) -> str:
    """data/ko/tokens is ko; web_text_document is itself."""
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")] or [path]
    name = parts[-2] if parts[-1] == "tokens" and len(parts) > 1 else parts[-1]
    return name.removesuffix(".gz").removesuffix(".jsonl").removesuffix(".bin")
