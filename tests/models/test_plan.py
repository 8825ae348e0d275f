"""Every parameter of every family is named exactly once, and regions and ends are modules that exist."""

import pytest
import torch

from hanbit.config.model import BertConfig, GPTConfig, LlamaConfig, MixtureConfig, ModelConfig, T5Config, num_layers
from hanbit.models.registry import FAMILIES, family_of
from tests.models.relatives import RELATIVES

CONFIGS: list[ModelConfig] = [
    GPTConfig(family="gpt", layers=2, hidden=16, heads=2, inner=32, vocabulary=11),
    LlamaConfig(
        family="llama", layers=2, hidden=16, heads=2, key_value_heads=1, head_dim=8, inner=32, vocabulary=11,
        query_key_value_bias=True, attention_output_bias=True, mlp_bias=True, query_key_norm=True,
    ),
    MixtureConfig(
        family="mixture", layers=2, hidden=16, heads=2, key_value_heads=1, head_dim=8, inner=32, vocabulary=11,
        query_key_value_bias=True, attention_output_bias=True, query_key_norm=True, experts=4, expert_inner=24,
        sparse_every=2,
    ),
    BertConfig(family="bert", layers=2, hidden=16, heads=2, inner=32, vocabulary=11),
    T5Config(
        family="t5", layers=2, decoder_layers=3, hidden=16, heads=2, head_dim=8, inner=32, vocabulary=11, gated=True,
        tied=False,
    ),
    *RELATIVES,
]  # fmt: skip


def test_every_family_is_tried_here() -> None:
    assert {config.family for config in CONFIGS} == set(FAMILIES)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.family)
def test_plan_names_every_parameter_once_and_nothing_else(config: ModelConfig) -> None:
    family = family_of(config)
    with torch.device("meta"):
        model = family.build(config)
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    used = {family.plan.rule_of(name).pattern for name in names}
    assert used == {rule.pattern for rule in family.plan.rules}
    modules = dict(model.named_modules())
    in_decoder = num_layers(config) - config.layers  # whose blocks also attend to the encoder
    assert sum(family.plan.is_region(name) for name in modules) == 2 * config.layers + 3 * in_decoder
    top_level = {name for name, _ in model.named_children()}
    assert top_level == {*family.plan.first, *family.plan.last, family.plan.repeat}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.family)
def test_units_of_a_plan_are_sizes_of_the_config(config: ModelConfig) -> None:
    units = {rule.unit for rule in family_of(config).plan.rules if rule.unit}
    assert all(isinstance(getattr(config, unit), int) for unit in units)


def test_modules_used_in_the_middle_are_those_of_the_plan() -> None:
    config = next(config for config in CONFIGS if config.family == "t5")
    plan = family_of(config).plan
    assert plan.used_by is not None
    used = plan.used_by(config)
    assert set(used) == {*plan.first, *plan.last}
    assert {name: list(layers) for name, layers in used.items()} == {
        "embedding": [0, 2], "encoder_bias": [0, 1], "encoder_norm": [2], "decoder_bias": [2, 3, 4], "norm": [4],
        "output": [4],
    }  # fmt: skip
