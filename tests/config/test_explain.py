"""Wrong recipes: each message has the place, the key, the value, the rule, and a way out."""

from pathlib import Path

import pytest

from hanbit.common.errors import ConfigError
from hanbit.config.aliases import ALIASES
from hanbit.config.keys import known_keys, nearest, section_names
from hanbit.config.load import load_recipe

WHOLE = """name: whole
model: {family: llama, layers: 2, hidden: 64, heads: 4}
data: {train: tokens}
batch: {global_batch: 8, sequence_length: 16}
"""

FAMILIES = "gpt or llama or mixture or bert or t5 or neox or opt or bloom or gemma or phi3 or exaone"


def refused(folder: Path, text: str = "", *overrides: str, **environment: str) -> str:
    path = folder / "r.yaml"
    path.write_text(WHOLE + text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, overrides, environment)
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training: {stpes: 3}", "r.yaml:5: training.stpes is not a key of a recipe. Did you mean training.steps?"),
        ("optimizer:\n  lr: 3", "r.yaml:6: optimizer.lr is not a key of a recipe. Hanbit calls it "
         "optimizer.learning_rate: write optimizer.learning_rate instead"),
        ("steps: 3", "r.yaml:5: steps is not a key of a recipe. Did you mean training.steps?"),
        ("optimiser: {epsilon: 1}", "r.yaml:5: optimiser is not a key of a recipe. Did you mean optimizer?"),
        ("training: {zzz: 3}", "r.yaml:5: training.zzz is not a key of a recipe. "
         "`hanbit config schema` lists all keys"),
        ("training: {steps: abc}", "r.yaml:5: training.steps=abc: must be a whole number or auto"),
        ("training: {steps: 0}", "r.yaml:5: training.steps=0: must be more than 0 or auto"),
        ("training: {steps: 2.5}", "r.yaml:5: training.steps=2.5: must be a whole number or auto"),
        ("training: {tokens: 1e9}", "r.yaml:5: training.tokens=1000000000.0: must be a whole number. "
         "Write 1000000000"),
        ("training: {seed: '4'}", 'r.yaml:5: training.seed="4": must be a whole number. '
         "Write it without quotation marks"),
        ("training: {seed: true}", "r.yaml:5: training.seed=true: must be a whole number"),
        ("training: {compile: 1}", "r.yaml:5: training.compile=1: must be true or false"),
        ("training: {compile: yes}", "r.yaml:5: training.compile=yes: must be true or false"),
        ("training: {precision: int8}", "r.yaml:5: training.precision=int8: must be auto, fp32, bf16, fp16 or fp8"),
        ("training: {seed: [1]}", "r.yaml:5: training.seed=[1]: must be a whole number"),
        ("training: 3", "r.yaml:5: training=3: must be a section, `key: value` on lines of its own"),
        ("parallel: {shard: 4}", "r.yaml:5: parallel.shard=4: must be 0, 1, 2 or 3"),
        ("parallel: {data: -1}", "r.yaml:5: parallel.data=-1: must be more than 0 or auto"),
        ("optimizer: {learning_rate: .inf}", "r.yaml:5: optimizer.learning_rate=Infinity: must be a finite number"),
        ("optimizer: {learning_rate: fast}", "r.yaml:5: optimizer.learning_rate=fast: must be a number"),
        ("optimizer: {betas: [0.9]}", "r.yaml:5: optimizer.betas=[0.9]: must be a longer list"),
        ("optimizer: {betas: [0.9, 1]}", "r.yaml:5: optimizer.betas[1]=1: must be less than 1"),
        ("optimizer: {betas: 0.9}", "r.yaml:5: optimizer.betas=0.9: must be a list"),
        ("tokenizer: {path: 3}", 'r.yaml:5: tokenizer.path=3: must be text. Write "3" with quotation marks'),
        ("runs: ${env:NOWHERE}", "r.yaml:5: runs=${env:NOWHERE}: NOWHERE is not set in the environment. "
         "Set it, or write ${env:NOWHERE,default}"),
        ("runs: ${oc.env:HOME}", "r.yaml:5: runs=${oc.env:HOME}: only ${env:NAME} and ${env:NAME,default} are known, "
         "and what they give must hold no ${"),
        ("logging: {every_steps: '${env:N,5}'}", 'r.yaml:5: logging.every_steps="5": must be a whole number. '
         "${env:...} gives text; a number is set by HANBIT_LOGGING__EVERY_STEPS"),
        ("base: 3", "r.yaml:5: base=3 must be text: a file, or family/size"),
    ],
)  # fmt: skip
def test_a_wrong_line_of_a_file_is_explained(tmp_path: Path, text: str, message: str) -> None:
    assert refused(tmp_path, text) == message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.steps=abc", "command line: training.steps=abc: must be a whole number or auto"),
        ("name=../../etc", "command line: name=../../etc: must be one word without `/` that begins with a letter or a "
         "digit"),
        ("name=", "command line: name=null: must be text"),
        ("model.family=mamba", f"command line: model.family=mamba is not known. Use {FAMILIES}"),
        ("model=3", "command line: model=3: must be a section, `key: value` on lines of its own"),
        ("model.intermediate_size=3", "command line: model.intermediate_size is not a key of a recipe. "
         "Hanbit calls it model.inner: write model.inner instead"),
        ("trainer.max_steps=3", "command line: trainer.max_steps is not a key of a recipe. "
         "Hanbit calls it training.steps: write training.steps instead"),
        ("model.rotary_scaling={kind: x, factor: 2}", "command line: model.rotary_scaling.kind=x: must be linear, "
         "llama3 or yarn"),
        ("model.rotary_scaling={kind: yarn}", "command line: model.rotary_scaling.factor is missing. Add it to the "
         "recipe or to the command line (model.rotary_scaling.factor=...)"),
        ("data.train=[1", "command line: data.train=[1: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("steps", "command line: 'steps' is not section.key=value, for instance training.steps=100"),
        ("a b=3", "command line: 'a b=3' is not section.key=value, for instance training.steps=100"),
        ("--training.steps", "command line: '--training.steps' is not section.key=value, for instance "
         "training.steps=100"),
    ],
)  # fmt: skip
def test_a_wrong_override_is_explained(tmp_path: Path, override: str, message: str) -> None:
    assert refused(tmp_path, "", override) == message


def test_a_wrong_environment_variable_is_named(tmp_path: Path) -> None:
    assert refused(tmp_path, HANBIT_TRAINING__STEPS="abc") == (
        "environment HANBIT_TRAINING__STEPS: training.steps=abc: must be a whole number or auto"
    )
    assert refused(tmp_path, HANBIT_TRAINING__STEP="3") == (
        "environment HANBIT_TRAINING__STEP: training.step is not a key of a recipe. Did you mean training.steps?"
    )
    assert refused(tmp_path, HANBIT___X="3") == (
        "environment HANBIT___X is not HANBIT_<SECTION>__<KEY>, for instance HANBIT_TRAINING__STEPS"
    )


def test_a_key_of_another_family_is_told_so(tmp_path: Path) -> None:
    overrides = ["model.family=gpt", "model.layers=2", "model.hidden=8", "model.heads=2", "model.key_value_heads=2"]
    assert refused(tmp_path, "", *overrides) == (
        "command line: model.key_value_heads is a key of model.family=llama or mixture or gemma or phi3 or exaone, "
        "this model's family is gpt. Remove it"
    )


def test_what_is_missing_is_told_at_its_section(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nmodel: {family: llama, layers: 2}\ndata: {train: x}\n")
    with pytest.raises(ConfigError) as caught:
        load_recipe(path, environment={})
    lines = str(caught.value).replace(f"{tmp_path}/", "").splitlines()
    assert lines[0].startswith("r.yaml:2: model.hidden is missing")
    assert lines[1].startswith("r.yaml:2: model.heads is missing")
    assert lines[2].startswith("recipe: the section batch is missing")


def test_a_model_without_family_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nmodel: {layers: 2}\ndata: {train: x}\nbatch: {global_batch: 8, sequence_length: 16}\n")
    with pytest.raises(ConfigError, match=rf"r\.yaml:2: model\.family is missing\. Use {FAMILIES}"):
        load_recipe(path, environment={})


def test_problems_are_told_together_up_to_ten(tmp_path: Path) -> None:
    two = refused(tmp_path, "training: {stpes: 3, seed: x}").splitlines()
    assert len(two) == 2
    assert {line.split(":")[2].split("=")[0].split()[0] for line in two} == {"training.stpes", "training.seed"}
    many = refused(tmp_path, "", *(f"logging.key{index}=1" for index in range(14))).splitlines()
    assert len(many) == 11
    assert many[-1] == "and 4 more"


def test_every_alias_leads_to_a_key_that_exists() -> None:
    assert {name for name in ALIASES.values() if name not in known_keys() and name not in section_names()} == set()


def test_no_alias_hides_a_key_of_ours() -> None:
    ours = {name.rsplit(".", 1)[-1]: name for name in known_keys()}
    assert {word: name for word, name in ALIASES.items() if word in ours and ours[word] != name} == {}


def test_a_misspelt_key_is_found_by_dropping_or_swapping_letters() -> None:
    for key in known_keys():
        word = key.rsplit(".", 1)[-1]
        if len(word) > 5:
            assert key in nearest(key.removesuffix(word) + word[:2] + word[3:])
            assert key in nearest(key.removesuffix(word) + word[:-2] + word[-1] + word[-2]) or word[-1] == word[-2]
