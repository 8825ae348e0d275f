"""What `auto` becomes, which sizes fit together, and that a resolved recipe repeats the run."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanbit.common.errors import ConfigError
from hanbit.config.load import load_recipe
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import Resolved, fill, passes_over, resolve
from hanbit.config.write import to_yaml


def recipe(**sections: dict[str, Any]) -> Recipe:
    """A small Llama with the sections' differences."""
    model = {"family": "llama", "layers": 4, "hidden": 96, "heads": 6, "key_value_heads": 2, "vocabulary": 100}
    whole: dict[str, Any] = {
        "name": "r",
        "model": model,
        "data": {"train": "t"},
        "batch": {"global_batch": 12, "sequence_length": 16},
        "training": {"steps": 1000},
    }
    for name, changes in sections.items():
        is_other = "family" in changes
        whole[name] = changes if is_other else {**whole.get(name, {}), **changes}
    return Recipe.model_validate(whole)


def resolved(one: Recipe, world_size: int = 1, vocabulary: int | None = None, **more: Any) -> Resolved:
    return resolve(one, world_size=world_size, vocabulary=vocabulary, **more)


def walk(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [value, *(leaf for item in inner for leaf in walk(item))]


def test_every_auto_gets_a_value_and_a_reason() -> None:
    one = recipe(model={"vocabulary": "auto", "key_value_heads": "auto"}, training={"steps": "auto", "tokens": 200_000})
    found = resolved(one, world_size=2, vocabulary=77, device="cpu")
    decisions = {decision.key: (decision.value, decision.reason) for decision in found.decisions}
    assert decisions == {
        "model.vocabulary": (77, "the tokenizer's size"),
        "model.key_value_heads": (6, "as many as model.heads"),
        "model.head_dim": (16, "96 hidden / 6 heads"),
        "model.inner": (256, "8/3 x 96 hidden, up to a multiple of 64"),
        "training.device": ("cpu", "what this machine has"),
        "training.steps": (1042, "200000 tokens / (12 sequences x 16 tokens), rounded up"),
        "parallel.data": (2, "2 processes / (tensor 1 x pipeline 1)"),
        "batch.micro_batch": (6, "largest divisor up to 8 of a replica's 6 sequences"),
        "optimizer.min_learning_rate": (3e-5, "a tenth of 0.0003"),
        "optimizer.warmup_steps": (11, "a hundredth of 1042 steps, at most 2000"),
        "checkpoint.every_steps": (104, "a tenth of 1042 steps"),
        "validation.every_steps": (104, "a tenth of 1042 steps"),
    }
    assert "auto" not in walk(found.recipe.model_dump())


def test_a_gpt_is_four_times_as_wide_inside() -> None:
    one = recipe(model={"family": "gpt", "layers": 2, "hidden": 48, "heads": 3, "vocabulary": 100})
    assert resolved(one).recipe.model.inner == 192


def test_what_is_set_is_left_alone() -> None:
    first = resolved(recipe(), world_size=1, device="cpu")
    again = resolved(first.recipe, world_size=1, device="cuda")
    assert again.recipe == first.recipe
    assert again.decisions == ()


@pytest.mark.parametrize(
    ("schedule", "virtual", "micro_batch"),
    [("gpipe", 1, 8), ("1f1b", 1, 4), ("interleaved", 2, 4), ("zero_bubble", 1, 4), ("zero_bubble", 2, 4)],
)
def test_micro_batches_are_as_many_as_the_schedule_wants(schedule: str, virtual: int, micro_batch: int) -> None:
    axes = {"pipeline": 6, "schedule": schedule, "virtual": virtual}
    one = recipe(parallel=axes, batch={"global_batch": 24}, model={"layers": 12})
    assert resolved(one, world_size=6).recipe.batch.micro_batch == micro_batch


def test_auto_schedule_follows_from_the_stages_of_a_process() -> None:
    one = resolved(recipe(parallel={"pipeline": 2, "virtual": 2}), world_size=2)
    assert one.recipe.parallel.schedule == "interleaved"
    assert ("parallel.schedule", "interleaved") in [(d.key, d.value) for d in one.decisions]
    assert resolved(recipe(), world_size=1).recipe.parallel.schedule == "1f1b"


@pytest.mark.parametrize(
    ("pipeline", "data", "micro_batch"), [(1, 1, 6), (1, 3, 4), (2, 1, 6), (4, 1, 3), (1, 12, 1), (4, 3, 1)]
)
def test_micro_batches_are_large_but_leave_one_for_each_stage(pipeline: int, data: int, micro_batch: int) -> None:
    found = resolved(recipe(parallel={"pipeline": pipeline}), world_size=pipeline * data)
    assert found.recipe.batch.micro_batch == micro_batch


@pytest.mark.parametrize(
    ("sections", "world_size", "message"),
    [
        ({"parallel": {"tensor": 4}}, 4, "parallel.tensor=4 does not divide model.heads=6 and model.key_value_heads=2. "
         "Use 1 or 2"),
        ({"parallel": {"tensor": 3}}, 3, "parallel.tensor=3 does not divide model.inner=256 and "
         "model.key_value_heads=2. Use 1 or 2"),
        ({"parallel": {"tensor": 4}, "model": {"family": "gpt", "layers": 1, "hidden": 48, "heads": 6,
          "vocabulary": 9}}, 4, "parallel.tensor=4 does not divide model.heads=6. Use 1, 2, 3 or 6"),
        ({"parallel": {"pipeline": 5}}, 5, "parallel.pipeline=5 is more than model.layers=4: a stage would have none. "
         "Use at most 4"),
        ({"parallel": {"tensor": 2, "pipeline": 2}}, 6, "parallel.tensor=2 x parallel.pipeline=2 x parallel.data=1 = "
         "4, but 6 processes were started. Start 4 (`hanbit launch --cluster local --processes 4 train ...`), or "
         "change one of these keys"),
        ({"parallel": {"data": 2}}, 1, "parallel.tensor=1 x parallel.pipeline=1 x parallel.data=2 = 2, but 1 process "
         "was started. Start 2 (`hanbit launch --cluster local --processes 2 train ...`), or change one of these keys"),
        ({"parallel": {"tensor": 2, "context": 2}}, 2, "parallel.tensor=2 x parallel.context=2 x parallel.pipeline=1 x "
         "parallel.data=1 = 4, but 2 processes were started"),
        ({"parallel": {"tensor": 2, "sequence": True}, "batch": {"sequence_length": 15}}, 2, "batch.sequence_length=15 "
         "is no multiple of parallel.tensor=2 with parallel.sequence=true. Use 14 or 16"),
        ({"parallel": {"context": 3}}, 3, "batch.sequence_length=16 is no multiple of 2 x parallel.context=3. "
         "Use 12 or 18"),
        ({"parallel": {"context": 3, "tensor": 2, "sequence": True}}, 6, "batch.sequence_length=16 is no multiple of "
         "2 x parallel.context=3 and parallel.tensor=2 with parallel.sequence=true. Use 12 or 18"),
        ({"parallel": {"context": 2}, "training": {"compile": True}}, 2, "training.compile=true together with "
         "parallel.context=2 is not proven. Leave one of them out"),
        ({"training": {"recompute_every": 2}}, 1, "training.recompute_every=2 says which blocks, and "
         "training.recompute=none says no block. Set training.recompute=selective or full, or leave it out"),
        ({"training": {"recompute_layers": 3}}, 1, "training.recompute_layers=3 says which blocks"),
        ({"batch": {"micro_batch": 5}}, 1, "batch.global_batch=12 is no multiple of parallel.data=1 x "
         "batch.micro_batch=5. Use 10 or 15"),
        ({}, 5, "batch.global_batch=12 is no multiple of parallel.data=5 x batch.micro_batch=2. Use 10 or 20"),
        ({"batch": {"global_batch": 2}}, 4, "batch.global_batch=2 is no multiple of parallel.data=4 x "
         "batch.micro_batch=1. Use 4"),
        ({"parallel": {"pipeline": 4}, "batch": {"micro_batch": 6}}, 4, "batch.global_batch=12 / (parallel.data=1 x "
         "batch.micro_batch=6) gives 2 micro-batches, and parallel.schedule=1f1b over parallel.pipeline=4 needs at "
         "least 4. Use batch.global_batch=24 or more, or a smaller batch.micro_batch"),
        ({"parallel": {"pipeline": 2, "virtual": 2}, "batch": {"micro_batch": 4}}, 2, "batch.global_batch=12 / "
         "(parallel.data=1 x batch.micro_batch=4) gives 3 micro-batches, and parallel.schedule=interleaved over "
         "parallel.pipeline=2 needs a multiple of 2. Use batch.global_batch=8 or 16, or a smaller batch.micro_batch"),
        ({"parallel": {"pipeline": 2, "virtual": 3}}, 2, "parallel.pipeline=2 x parallel.virtual=3 = 6 stages is more "
         "than model.layers=4: a stage would have none. Use at most 4 stages"),
        ({"parallel": {"pipeline": 2, "layers_per_stage": [3, 2]}}, 2, "parallel.layers_per_stage=[3, 2] has 2 "
         "stage(s) of 5 layers together, but there are 2 stages (parallel.pipeline x parallel.virtual) and "
         "model.layers=4. Use 2 numbers such as [2, 2], or balanced"),
        ({"parallel": {"virtual": 2}}, 1, "parallel.virtual=2 cuts stages of a pipeline, and parallel.pipeline=1 has "
         "none. Leave it out, or use parallel.pipeline=2 or more"),
        ({"parallel": {"pipeline": 2, "virtual": 2, "schedule": "1f1b"}}, 2, "parallel.schedule=1f1b has one stage in "
         "each process, not parallel.virtual=2. Use interleaved or zero_bubble, or auto"),
        ({"parallel": {"pipeline": 2, "schedule": "interleaved"}}, 2, "parallel.schedule=interleaved needs several "
         "stages in each process, and parallel.virtual=1. Use parallel.virtual=2 or more, or parallel.schedule=1f1b"),
        ({"parallel": {"pipeline": 2, "schedule": "zero_bubble", "shard": 3}}, 4, "parallel.schedule=zero_bubble with "
         "parallel.shard=3 gives wrong gradients: weights are gone by then. Use parallel.shard=2, or another schedule"),
        ({"parallel": {"pipeline": 2, "schedule": "zero_bubble"}, "training": {"compile": True}}, 2,
         "parallel.schedule=zero_bubble with training.compile=true gives wrong gradients. Leave it out, or use "
         "another schedule"),
        ({"model": {"context": 8}}, 1, "batch.sequence_length=16 is longer than model.context=8. Use at most 8, or a "
         "larger model.context"),
        ({"model": {"heads": 7}}, 1, "model.heads=7 does not divide model.hidden=96. Use 1, 2, 3, 4, 6, 8, 12, 16, 24, "
         "32, 48 or 96"),
        ({"model": {"family": "gpt", "layers": 1, "hidden": 10, "heads": 3, "vocabulary": 9}}, 1,
         "model.heads=3 does not divide model.hidden=10. Use 1, 2, 5 or 10"),
        ({"model": {"key_value_heads": 4}}, 1, "model.key_value_heads=4 does not divide model.heads=6. "
         "Use 1, 2, 3 or 6"),
        ({"model": {"head_dim": 15}}, 1, "model.head_dim=15 x model.rotary_fraction=1.0 = 15 is not an even number of "
         "features. Use an even model.head_dim, or model.rotary_fraction="),
        ({"model": {"rotary_fraction": 0.3}}, 1, "model.head_dim=16 x model.rotary_fraction=0.3 = 4.8 is not an even "
         "number of features. Use an even model.head_dim, or model.rotary_fraction=0.25 or 0.375"),
        ({"training": {"tokens": 5}}, 1, "training.steps=1000 and training.tokens=5 both say how long to train. "
         "Set training.steps=auto or training.tokens=null"),
        ({"training": {"steps": "auto"}}, 1, "training.steps=auto needs training.tokens. Set one of them"),
        ({"model": {"vocabulary": "auto"}}, 1, "model.vocabulary=auto needs a tokenizer, and there is none beside "
         "data.train=t. Make the data with `hanbit prepare`, name tokenizer.path, or set model.vocabulary"),
        ({"optimizer": {"warmup_steps": 1001}}, 1, "optimizer.warmup_steps=1001 is more than training.steps=1000. "
         "Use at most 1000, or auto"),
        ({"optimizer": {"min_learning_rate": 0.5}}, 1, "optimizer.min_learning_rate=0.5 is more than "
         "optimizer.learning_rate=0.0003. Use at most 0.0003, or auto"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_told_with_those_that_would(
    sections: dict[str, dict[str, Any]], world_size: int, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(recipe(**sections), world_size=world_size)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("parallel", [{"context": 2}, {"tensor": 2, "sequence": True}])
def test_sequences_are_split_only_in_families_where_that_is_proven(parallel: dict[str, Any]) -> None:
    mixture = {"family": "mixture", "layers": 1, "hidden": 96, "heads": 6, "key_value_heads": 2, "inner": 64}
    with pytest.raises(ConfigError, match=r"with model\.family=mixture is not proven.* families but bert, t5, mixture"):
        resolved(recipe(parallel=parallel, model={**mixture, "experts": 4, "vocabulary": 9}), world_size=2)


@pytest.mark.parametrize(
    ("parallel", "told"),
    [
        ({"data": 2, "offload": True}, "parallel.offload=true with parallel.shard=0: only what is sharded can leave"),
        ({"data": 2, "shard": 1, "offload": True}, "parallel.shard=1: only what is sharded can leave the GPU. Use"),
        ({"tensor": 2, "shard": 3, "offload": True}, "parallel.data=1: nothing is sharded without a replica beside"),
    ],
)
def test_what_is_whole_cannot_be_offloaded(parallel: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolved(recipe(parallel=parallel), world_size=2)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"training": {"compile": True}}, "training.compile=true"),
        ({"training": {"precision": "fp16"}}, "training.precision=fp16"),
        ({"parallel": {"pipeline": 2, "schedule": "zero_bubble"}}, "parallel.schedule=zero_bubble"),
    ],
)
def test_what_is_offloaded_is_not_trained_in_ways_that_are_not_proven(
    sections: dict[str, dict[str, Any]], told: str
) -> None:
    parallel = {"data": 2, "shard": 2, "offload": True, **sections.get("parallel", {})}
    with pytest.raises(ConfigError, match=f"offload=true together with {told} is not proven"):
        resolved(recipe(**{**sections, "parallel": parallel}), world_size=2 * parallel.get("pipeline", 1))


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"training": {"compile": True}}, "training.compile=true with model.family=bloom is not proven"),
        ({"training": {"precision": "fp16"}}, "training.precision=fp16 with model.family=bloom is not proven"),
    ],
)
def test_of_a_relative_what_is_not_proven_is_refused(sections: dict[str, dict[str, Any]], told: str) -> None:
    bloom = {"family": "bloom", "layers": 1, "hidden": 96, "heads": 6, "vocabulary": 9}
    with pytest.raises(ConfigError, match=told):
        resolved(recipe(model=bloom, **sections))
    assert resolved(recipe(model=bloom, parallel={"context": 2}), world_size=2).recipe.parallel.context == 2


def test_experts_are_not_trained_on_conversations() -> None:
    mixture = {"family": "mixture", "layers": 1, "hidden": 96, "heads": 6, "experts": 4, "vocabulary": 9}
    with pytest.raises(ConfigError, match=r"conversations are not proven with model\.family=mixture"):
        resolved(recipe(model=mixture, data={"kind": "conversations"}))


def test_fp8_is_not_trained_with_moments_shared_out() -> None:
    one = recipe(parallel={"data": 2, "shard": 1}, training={"precision": "fp8"})
    with pytest.raises(ConfigError, match=r"precision=fp8 together with parallel\.shard=1 is not proven"):
        resolved(one, world_size=2)


def test_what_goes_backward_twice_is_not_recomputed_selectively() -> None:
    one = recipe(parallel={"pipeline": 2, "schedule": "zero_bubble"}, training={"recompute": "selective"})
    with pytest.raises(ConfigError, match=r"selective together with parallel\.schedule=zero_bubble.*Use full or none"):
        resolved(one, world_size=2)


def test_sequences_are_split_only_in_the_order_in_which_that_is_proven() -> None:
    interleaved = {"tensor": 2, "sequence": True, "pipeline": 2, "virtual": 2}
    with pytest.raises(ConfigError, match=r"together with parallel\.schedule=interleaved is not proven"):
        resolved(recipe(parallel=interleaved), world_size=4)


def test_a_smaller_vocabulary_than_the_tokenizers_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.vocabulary=100 is smaller than the tokenizer's 101 tokens"):
        resolved(recipe(), vocabulary=101)
    assert resolved(recipe(), vocabulary=99).recipe.model.vocabulary == 100


def test_every_size_that_is_offered_for_tensor_would_do() -> None:
    with pytest.raises(ConfigError) as caught:
        resolved(recipe(model={"heads": 12, "key_value_heads": 12, "inner": 80}, parallel={"tensor": 5}), world_size=5)
    for size in (1, 2, 4):
        one = recipe(model={"heads": 12, "key_value_heads": 12, "inner": 80}, parallel={"tensor": size})
        resolved(one, world_size=size)
    assert str(caught.value).endswith("Use 1, 2 or 4")


def test_all_problems_are_told_at_once_with_their_places() -> None:
    origins = {"parallel.tensor": "r.yaml:7", "batch.sequence_length": "command line"}
    with pytest.raises(ConfigError) as caught:
        resolved(recipe(parallel={"tensor": 5}, batch={"sequence_length": 9999}), world_size=5, origins=origins)
    first, second = str(caught.value).splitlines()
    assert "(r.yaml:7). Use 1 or 2" in first
    assert "(command line). Use at most 2048" in second


def test_an_uneven_vocabulary_may_be_cut() -> None:
    resolved(recipe(model={"vocabulary": 513}, parallel={"tensor": 2}), world_size=2)


def test_what_is_allowed_but_perhaps_not_meant_is_noted() -> None:
    assert resolved(recipe()).notes == ()
    (note,) = resolved(recipe(parallel={"shard": 3})).notes
    assert "parallel.shard=3 changes nothing with parallel.data=1" in note
    (note,) = resolved(recipe(parallel={"sequence": True})).notes
    assert "parallel.sequence=true changes nothing with parallel.tensor=1" in note
    assert resolved(recipe(parallel={"shard": 3, "context": 2}), world_size=2).notes == ()


def test_context_leaves_fewer_processes_for_replicas() -> None:
    found = resolved(recipe(parallel={"context": 2, "tensor": 2}), world_size=12)
    assert found.recipe.parallel.data == 3
    assert "12 processes / (tensor 2 x context 2 x pipeline 1)" in [decision.reason for decision in found.decisions]


def test_passes_over_the_data_are_counted() -> None:
    wanted = resolved(recipe()).recipe  # 12,000 sequences
    assert passes_over(wanted, 4000) == "the run takes 3 passes over 4000 training sequences"
    assert passes_over(wanted, 12000) == "the run takes 1 pass over 12000 training sequences"


def test_filling_alone_leaves_an_unknown_vocabulary() -> None:
    found = fill(recipe(model={"vocabulary": "auto"}), 1, None)
    assert found.recipe.model.vocabulary == "auto"


def test_a_resolved_recipe_repeats_the_run(tmp_path: Path) -> None:
    first = resolved(recipe(parallel={"tensor": 2}), world_size=4, device="cpu").recipe
    path = tmp_path / "config.resolved.yaml"
    path.write_text(to_yaml(first), encoding="utf-8")
    again = load_recipe(path, environment={}).recipe
    assert again == first
    assert to_yaml(resolved(again, world_size=4, device="cuda").recipe) == path.read_text(encoding="utf-8")


positive = st.floats(min_value=1e-300, max_value=1e300)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(lambda text: "${" not in text)


@settings(max_examples=60, deadline=None)
@given(rate=positive, decay=positive, steps=st.integers(1, 10**18), beta=st.floats(0, 1, exclude_max=True))
def test_numbers_on_the_command_line_survive_the_resolved_file(
    tmp_path_factory: pytest.TempPathFactory, rate: float, decay: float, steps: int, beta: float
) -> None:
    numbers = [f"learning_rate={rate!r}", f"weight_decay={decay!r}", f"betas=[{beta!r}, {beta!r}]"]
    overrides = [f"optimizer.{one}" for one in numbers]
    found = load_recipe("llama/tiny", [*overrides, f"training.steps={steps}"], {}).recipe
    optimizer = found.optimizer
    assert (optimizer.learning_rate, optimizer.weight_decay, optimizer.betas) == (rate, decay, (beta, beta))
    assert found.training.steps == steps
    path = tmp_path_factory.mktemp("numbers") / "r.yaml"
    path.write_text(to_yaml(resolved(found, vocabulary=9).recipe), encoding="utf-8")
    assert load_recipe(path, environment={}).recipe == resolved(found, vocabulary=9).recipe


@settings(max_examples=100, deadline=None)
@given(text=texts)
def test_any_text_survives_the_resolved_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    one = recipe(data={"train": text}, tokenizer={"path": text})
    path = tmp_path_factory.mktemp("texts") / "r.yaml"
    path.write_bytes(to_yaml(one).encode())
    assert load_recipe(path, environment={}).recipe == one


MIXTURE = {
    "family": "mixture", "experts": 4, "inner": 192, "layers": 4, "hidden": 96, "heads": 6, "vocabulary": 100,
}  # fmt: skip


def test_an_expert_is_as_wide_as_an_mlp_unless_told_otherwise() -> None:
    assert resolved(recipe(model=MIXTURE)).recipe.model.expert_inner == 192
    assert resolved(recipe(model={**MIXTURE, "expert_inner": 24})).recipe.model.expert_inner == 24


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"experts_per_token": 5}, "more than model.experts=4; use at most 4"),
        ({"sparse_every": 5}, "more than model.layers=4: no layer would have experts; use at most 4"),
        ({"mlp_bias": True}, "experts have no biases"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        recipe(model={**MIXTURE, **changes})


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"parallel": {"expert": 2}}, "parallel.expert=2, but model.family=llama has no experts"),
        (
            {"model": MIXTURE, "parallel": {"expert": 3}},
            r"parallel.expert=3 does not divide model.experts=4. Use 1, 2 or 4",
        ),
        ({"model": MIXTURE, "parallel": {"expert": 4}}, r"parallel.expert=4 does not divide parallel.data=6"),
        (
            {"model": MIXTURE, "parallel": {"expert": 2, "data": 2, "tensor": 3, "shard": 2, "offload": True}},
            "parallel.offload=true with parallel.expert=parallel.data=2: experts are not sharded then",
        ),
    ],
)
def test_experts_that_cannot_be_shared_out_are_refused(sections: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        resolved(recipe(**sections), world_size=6)


def test_what_is_not_proven_with_experts_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"training.compile=true with model.family=mixture.*Leave it out"):
        resolved(recipe(model=MIXTURE, training={"compile": True}))
