"""The files of other frameworks on the page, translated key by key, are the recipes that stand beside them."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from hanbit.config.aliases import ALIASES
from hanbit.config.keys import known_keys
from hanbit.config.load import load_recipe
from hanbit.config.resolve import expected_processes, resolve
from tests.journeys.pages import ROOT, Block, blocks_of

BLOCKS = blocks_of(ROOT / "docs/coming-from-nemo.md")
PAIRS = list(zip(BLOCKS[::2], BLOCKS[1::2], strict=True))


def leaves(data: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(data, dict):
        for key, value in data.items():
            yield from leaves(value, key)
    else:
        yield name, data


def theirs(block: Block) -> dict[str, Any]:
    """Last word of a key -> value, whatever the file's form."""
    if block.language == "text":
        words = [line.split() for line in block.text.splitlines() if line.startswith("--")]
        return {key[2:].replace("-", "_"): YAML(typ="safe", pure=True).load(value) for key, value in words}
    data = tomllib.loads(block.text) if block.language == "toml" else YAML(typ="safe", pure=True).load(block.text)
    return dict(leaves(data))


def our_key(word: str) -> str:
    """By the aliases; a word that is ours too must be so in one section only, sections inside of sections aside."""
    if word in ALIASES:
        return ALIASES[word]
    fields = [key for key in known_keys() if key.count(".") == 1 and not key.startswith("checkpoint.every")]
    (key,) = [key for key in fields if key.endswith(f".{word}")]
    return key


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0].text.splitlines()[0])
def test_a_file_of_theirs_says_what_the_recipe_beside_it_says(pair: tuple[Block, Block], tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(pair[1].text, encoding="utf-8")
    recipe = load_recipe(path, environment={}).recipe
    found = theirs(pair[0])
    assert len(found) >= 8
    for word, value in found.items():
        section, field = our_key(word).split(".")
        ours = getattr(getattr(recipe, section), field)
        assert (list(ours) if isinstance(ours, tuple) else ours) == value, word
    resolve(recipe, world_size=expected_processes(recipe), vocabulary=None, device="cpu")
