"""What is not proven for families that do not say the next token is refused before anything starts."""

from typing import Any

import pytest

from hanbit.common.errors import ConfigError
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve

MODELS: dict[str, dict[str, Any]] = {
    "bert": {"family": "bert", "layers": 2, "hidden": 32, "heads": 4, "vocabulary": 517},
    "t5": {"family": "t5", "layers": 2, "hidden": 32, "heads": 4, "vocabulary": 615},
}


def recipe(family: str, **sections: Any) -> Recipe:
    common = {"name": "x", "model": MODELS[family], "data": {"train": "x"}, "training": {"steps": 1}}
    batch = {"global_batch": 8, "sequence_length": 32, "micro_batch": 1}
    return Recipe.model_validate({**common, "batch": batch, **sections})


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("parallel", [{"schedule": "gpipe"}, {"schedule": "zero_bubble"}, {"virtual": 2}], ids=str)
def test_other_schedules_than_1f1b_are_refused(family: str, parallel: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"is not proven for model\.family={family}"):
        resolve(recipe(family, parallel={"pipeline": 2, **parallel}), world_size=2, vocabulary=None)


@pytest.mark.parametrize("family", MODELS)
def test_tuning_is_refused(family: str) -> None:
    with pytest.raises(ConfigError, match=rf"not for model\.family={family}"):
        resolve(recipe(family, tuning={"model": "folder"}), world_size=1, vocabulary=None)


def test_t5_has_as_many_stages_as_both_its_stacks_have_layers() -> None:
    resolve(recipe("t5", parallel={"pipeline": 4}), world_size=4, vocabulary=None)
    with pytest.raises(ConfigError, match=r"parallel\.pipeline=5 is more than model\.layers=4"):
        resolve(recipe("t5", parallel={"pipeline": 5}), world_size=5, vocabulary=None)


def test_a_model_of_embeddings_is_not_trained() -> None:
    model = {**MODELS["bert"], "word_head": False, "sentence_order": False}
    with pytest.raises(ConfigError, match=r"model\.word_head=false is a model of embeddings"):
        resolve(recipe("bert", model=model), world_size=1, vocabulary=None)
    with pytest.raises(ValueError, match=r"without model\.word_head has no second head"):
        recipe("bert", model={**model, "sentence_order": True})
