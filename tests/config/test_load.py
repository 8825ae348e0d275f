"""Layers on one another: which value counts, and where it is said to come from."""

import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from hanbit.common.errors import ConfigError
from hanbit.config.load import Loaded, load_recipe

BASE = """
name: base
model: {family: llama, layers: 2, hidden: 64, heads: 4, vocabulary: 100}
data: {train: tokens}
batch: {global_batch: 8, sequence_length: 16}
training: {steps: 10}
"""


def loaded(folder: Path, text: str, *overrides: str, **environment: str) -> Loaded:
    (folder / "base.yaml").write_text(BASE, encoding="utf-8")
    (folder / "own.yaml").write_text(f"base: base.yaml\n{text}", encoding="utf-8")
    return load_recipe(folder / "own.yaml", overrides, environment)


def test_later_layers_lie_on_earlier_ones(tmp_path: Path) -> None:
    text = "training: {steps: 20, seed: 2}\noptimizer: {epsilon: 1e-6, weight_decay: 0.2}\n"
    found = loaded(
        tmp_path,
        text,
        "optimizer.epsilon=1e-4",
        HANBIT_OPTIMIZER__EPSILON="1e-5",
        HANBIT_OPTIMIZER__WEIGHT_DECAY="0.3",
    )
    recipe, origins, folder = found.recipe, found.origins, tmp_path
    assert (recipe.name, origins["name"]) == ("base", f"{folder}/base.yaml:2")
    assert (recipe.training.steps, origins["training.steps"]) == (20, f"{folder}/own.yaml:2")
    assert (recipe.training.seed, origins["training.seed"]) == (2, f"{folder}/own.yaml:2")
    assert recipe.optimizer.weight_decay == 0.3
    assert origins["optimizer.weight_decay"] == "environment HANBIT_OPTIMIZER__WEIGHT_DECAY"
    assert (recipe.optimizer.epsilon, origins["optimizer.epsilon"]) == (1e-4, "command line")
    assert recipe.optimizer.clip_grad_norm == 1.0
    assert "optimizer.clip_grad_norm" not in origins


def test_bases_chain_by_name_and_by_path(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "middle.yaml").write_text("base: llama/tiny\nname: middle\ntraining: {seed: 5}\n")
    (tmp_path / "deep/own.yaml").write_text("base: ../middle.yaml\ntraining: {steps: 7}\n")
    found = load_recipe(tmp_path / "deep/own.yaml", environment={})
    assert (found.recipe.name, found.recipe.training.seed, found.recipe.training.steps) == ("middle", 5, 7)
    assert found.origins["model.family"] == "hanbit/recipes/llama/base.yaml:3"


def test_bases_in_a_circle_are_refused_by_name(tmp_path: Path) -> None:
    for name, base in (("a", "b"), ("b", "c"), ("c", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"# {name}\nbase: {base}.yaml\n")
    with pytest.raises(ConfigError, match=r"c\.yaml:2: base: goes in a circle: .*a\.yaml -> .*b\.yaml -> .*c\.yaml"):
        load_recipe(tmp_path / "a.yaml", environment={})


def test_a_missing_base_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("base: llama/60mm\n")
    with pytest.raises(ConfigError, match=r"own\.yaml:1: base=llama/60mm: .*Did you mean llama/60m\?"):
        load_recipe(tmp_path / "own.yaml", environment={})


@pytest.mark.parametrize("source", ["llama/71b", "../recipes/llama/tiny", "/etc/passwd.yaml"])
def test_an_unknown_recipe_is_refused(source: str) -> None:
    with pytest.raises(ConfigError, match="there is no recipe"):
        load_recipe(source, environment={})


def test_a_run_folder_is_answered_with_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.resolved.yaml").write_text(BASE)
    with pytest.raises(ConfigError, match=r"is a folder.*config\.resolved\.yaml"):
        load_recipe(tmp_path, environment={})


def test_another_family_replaces_the_model_instead_of_mixing_keys(tmp_path: Path) -> None:
    found = loaded(tmp_path, "model: {family: gpt, layers: 3, hidden: 32, heads: 2}\n")
    assert found.recipe.model.model_dump(exclude_unset=True) == {"family": "gpt", "layers": 3, "hidden": 32, "heads": 2}
    assert "model.vocabulary" not in found.origins
    with pytest.raises(ConfigError, match=r"^command line: model\.layers is missing"):
        loaded(tmp_path, "", "model.family=gpt")


def test_the_order_of_overrides_loses_none_when_the_family_changes(tmp_path: Path) -> None:
    overrides = ["model.layers=3", "model.family=gpt", "model.hidden=32", "model.heads=2"]
    assert loaded(tmp_path, "", *overrides).recipe.model.layers == 3


def test_overrides_may_be_written_as_flags(tmp_path: Path) -> None:
    found = loaded(tmp_path, "", "--training.steps", "12", "--training.seed=3", "training.compile=true")
    training = found.recipe.training
    assert (training.steps, training.seed, training.compile) == (12, 3, True)


def test_a_whole_section_may_be_an_override(tmp_path: Path) -> None:
    found = loaded(tmp_path, "", "model.rotary_scaling={kind: linear, factor: 2.0}", "training={seed: 3}")
    assert found.recipe.model.rotary_scaling.factor == 2.0
    assert found.recipe.training.steps == 10
    assert found.origins["model.rotary_scaling.factor"] == "command line"


def test_null_takes_a_value_back(tmp_path: Path) -> None:
    found = loaded(tmp_path, "training: {tokens: 99}\n", "training.tokens=null", "optimizer.clip_grad_norm=null")
    assert found.recipe.training.tokens is None
    assert found.recipe.optimizer.clip_grad_norm is None


def test_a_section_with_nothing_in_it_says_nothing(tmp_path: Path) -> None:
    assert loaded(tmp_path, "training:\n  # steps: 20\n").recipe.training.steps == 10


def test_variables_of_the_environment_become_text(tmp_path: Path) -> None:
    text = 'data: {train: "${env:CORPUS,none}/${env:PART,all}"}\n'
    assert loaded(tmp_path, text, CORPUS="/data").recipe.data.train == "/data/all"
    text = 'name: "${env:NUMBER}"\n'
    assert loaded(tmp_path, text, NUMBER="12").recipe.name == "12"


def test_other_variables_of_hanbit_are_no_keys(tmp_path: Path) -> None:
    assert loaded(tmp_path, "", HANBIT_HOME="/x", HANBIT_LANG="ko", OTHER__KEY="1").recipe.name == "base"


def test_a_recipe_and_its_base_are_found_in_the_other_spelling_of_unicode(tmp_path: Path) -> None:
    (tmp_path / unicodedata.normalize("NFD", "바탕.yaml")).write_text(BASE, encoding="utf-8")
    (tmp_path / unicodedata.normalize("NFD", "한글.yaml")).write_text("base: 바탕.yaml\n", encoding="utf-8")
    assert load_recipe(tmp_path / "한글.yaml", environment={}).recipe.training.steps == 10


def test_one_underscore_where_two_belong_is_said_with_the_right_spelling(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    found = loaded(tmp_path, "", HANBIT_TRAINING_STEPS="3", HANBIT_LANG="ko", HANBIT_LOG="info", HANBIT_MODEL="x")
    assert "training.steps" not in found.origins or "environment" not in found.origins["training.steps"]
    assert [record.message for record in caplog.records] == [
        "environment HANBIT_TRAINING_STEPS is not used: a key is written HANBIT_TRAINING__STEPS, with two underscores"
    ]
    monkeypatch.setenv("RANK", "1")
    loaded(tmp_path, "", HANBIT_TRAINING_STEPS="3")
    assert len(caplog.records) == 1  # one of many processes speaks


def test_two_environment_layers_of_one_key_do_not_crash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"training\.steps\.more|training\.steps"):
        loaded(tmp_path, "", HANBIT_TRAINING__STEPS="3", HANBIT_TRAINING__STEPS__MORE="4")


def test_loading_a_recipe_stays_light() -> None:
    heavy = "{'torch', 'numpy', 'typer', 'rich', 'tokenizers', 'jinja2', 'transformers'}"
    code = f"import sys, hanbit.config.load; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
