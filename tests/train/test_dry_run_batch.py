"""The batch that a dry run traces has the names, shapes and types of the one that training reads."""

from pathlib import Path

import pytest
import torch

from hanbit.config.load import load_recipe
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.grid import Axis, Grid
from hanbit.parallel.objectives import ANSWERS, MASKED, NEXT_TOKENS, Vocabulary
from hanbit.train.data import open_data
from hanbit.train.dry_run_batch import blank_batch, blank_objective
from tests.train.recipes import tiny_run

CPU = torch.device("cpu")


def recipe_of(folder: Path, family: str, *more: str) -> Recipe:
    shared = [text for text in tiny_run(folder) if not text.startswith("model.key_value")]
    loaded = load_recipe(f"{family}/base", [*shared, "model.vocabulary=700", *more], environment={})
    return resolve(loaded.recipe, world_size=1, vocabulary=None, device="cpu").recipe


@pytest.mark.parametrize(
    ("family", "more"),
    [
        ("llama", []),
        ("llama", ["data.packing=documents"]),
        ("bert", []),
        ("bert", ["model.sentence_order=false"]),
        ("t5", []),
    ],
)
def test_names_shapes_and_types_are_those_of_the_data(tmp_path: Path, family: str, more: list[str]) -> None:
    recipe = recipe_of(tmp_path, family, *more)
    samples, _ = open_data(recipe, Grid(CPU, Axis("pipeline"), Axis("data"), Axis("tensor")))
    read = {name: torch.from_numpy(array) for name, array in samples.arrays(range(3)).items()}
    found = blank_batch(recipe, 3, CPU)
    assert {name: (one.shape, one.dtype) for name, one in found.items()} == {
        name: (one.shape, one.dtype) for name, one in read.items()
    }


def test_of_masked_words_as_many_go_through_the_head_as_a_full_row_has(tmp_path: Path) -> None:
    recipe, chosen = recipe_of(tmp_path, "bert"), []

    class Model:
        output = torch.nn.Linear(4, 700)

        def final(self, states: torch.Tensor) -> torch.Tensor:
            chosen.append(states.shape)
            return states

    batch = {"targets": torch.full((3, 32), -1)}
    states = (torch.randn(3, 32, 4),)
    blank_objective(recipe, MASKED).loss(Model(), states, batch, Vocabulary(Axis("tensor")))
    assert chosen == [(3 * 4, 4)]  # 15% of 29: beside [CLS] and two [SEP]
    assert blank_objective(recipe, ANSWERS) is NEXT_TOKENS
