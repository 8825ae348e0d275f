"""Every two kinds of parallelism, schedule, sharding, recompute, data and family are proven together, or refused.

What the configuration accepts has a case in the table of `hanbit bench exactness`, so nothing is accepted unproven.
"""

import math
from typing import Any

import pytest

from hanbit.bench.exactness_cases import CASES, COMPILED_CASES, MODELS, PACKED, Case
from hanbit.bench.exactness_worker import recipe_of
from hanbit.common.errors import ConfigError
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve
from hanbit.models.registry import FAMILIES as REGISTERED

Settings = dict[str, Any]
FAMILIES = tuple(sorted({str(shape["family"]) for shape in MODELS.values()}))
KINDS: dict[str, Settings] = {
    "data": {"parallel.data": 2},
    "tensor": {"parallel.tensor": 2},
    "pipeline": {"parallel.pipeline": 2},
    "context": {"parallel.context": 2},
    "expert": {"parallel.data": 2, "parallel.expert": 2},
    "sequence split": {"parallel.tensor": 2, "parallel.sequence": True},
    "optimizer sharded": {"parallel.data": 2, "parallel.shard": 1},
    "gradients sharded": {"parallel.data": 2, "parallel.shard": 2},
    "parameters sharded": {"parallel.data": 2, "parallel.shard": 3},
    "offload": {"parallel.data": 2, "parallel.offload": True},
    "gpipe": {"parallel.pipeline": 2, "parallel.schedule": "gpipe"},
    "zero bubble": {"parallel.pipeline": 2, "parallel.schedule": "zero_bubble"},
    "interleaved": {"parallel.pipeline": 2, "parallel.virtual": 2},
    "full recompute": {"training.recompute": "full"},
    "selective recompute": {"training.recompute": "selective"},
    "compile": {"training.compile": True},
    "packing": {"data.packing": "documents"},
    **{family: {"model.family": family} for family in FAMILIES},
}
AXES = ("data", "tensor", "pipeline", "context")


def together(first: str, second: str) -> Settings | None:
    """None: they are two values of one switch."""
    both = {**KINDS[first], **KINDS[second]}
    return both if all(both[key] == value for key, value in KINDS[first].items()) else None


def has(case: Case, settings: Settings) -> bool:
    """Whether all of the settings are on in a case; an axis may be longer there."""
    sections = {**case.settings, "model": MODELS[case.model]}
    sections["data"] = {"packing": "documents" if case.model in PACKED else "none"}
    found = {f"{section}.{key}": value for section, keys in sections.items() for key, value in keys.items()}
    longer = {f"parallel.{axis}" for axis in (*AXES, "expert", "virtual")}
    return all(
        found.get(key, 1) >= value if key in longer else found.get(key) == value for key, value in settings.items()
    )


def is_accepted(settings: Settings) -> bool:
    """Of a recipe with nothing else in it."""
    family = settings.get("model.family", "mixture" if "parallel.expert" in settings else "llama")
    sections: dict[str, dict[str, Any]] = {
        "model": dict(MODELS[family]),
        "data": {"train": "nowhere"},
        "batch": {"micro_batch": 1, "global_batch": 8, "sequence_length": 32},
        "training": {"steps": 1, "device": "cpu"},
        "parallel": {"shard": 3} if "parallel.offload" in settings else {},
    }
    for name, value in settings.items():
        section, key = name.split(".")
        sections[section][key] = value
    processes = math.prod(sections["parallel"].get(axis, 1) for axis in AXES)
    try:
        resolve(Recipe.model_validate({"name": "pair", **sections}), world_size=processes, vocabulary=None)
    except ConfigError:
        return False
    return True


@pytest.mark.parametrize("first", KINDS)
def test_a_kind_is_proven_beside_every_other_one_that_is_accepted_beside_it(first: str) -> None:
    assert is_accepted(KINDS[first]), "then nothing beside it could be"
    pairs = {second: together(first, second) for second in KINDS if second != first}
    unproven = [
        second
        for second, both in pairs.items()
        if both is not None and not any(has(case, both) for case in (*CASES, *COMPILED_CASES)) and is_accepted(both)
    ]
    assert unproven == []


def test_every_family_that_there_is_has_a_model_in_the_table() -> None:
    assert set(FAMILIES) == set(REGISTERED)


def test_a_pair_that_no_case_has_would_be_found() -> None:
    both = together("tensor", "pipeline")
    assert both is not None
    assert is_accepted(both)
    assert not any(has(case, both) for case in CASES if case.processes < 4)


@pytest.mark.parametrize("case", [*CASES, *COMPILED_CASES], ids=lambda case: f"{case.name}, {case.model}")
def test_the_configuration_accepts_every_case(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found here at once, which the table would say after minutes."""
    monkeypatch.setenv("WORLD_SIZE", str(case.processes))
    recipe = recipe_of("nowhere", case.model, case.settings)
    assert recipe.batch.global_batch // (int(recipe.batch.micro_batch) * int(recipe.parallel.data)) >= 2
