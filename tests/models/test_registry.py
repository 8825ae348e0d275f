"""Families by name, and the places that their adapters give to tensors."""

import pytest

from hanbit.checkpoint.model_weights import shapes_of
from hanbit.common.errors import ModelError
from hanbit.config.model import BertConfig, GPTConfig, LlamaConfig, MixtureConfig, ModelConfig, T5Config
from hanbit.models.registry import FAMILIES, adapter_of, family_of
from tests.models.relatives import RELATIVES

CONFIGS: list[ModelConfig] = [
    GPTConfig(family="gpt", layers=2, hidden=16, heads=2, inner=32, vocabulary=11, tied=False),
    LlamaConfig(
        family="llama", layers=2, hidden=16, heads=2, key_value_heads=1, head_dim=8, inner=32, vocabulary=11,
        query_key_value_bias=True, attention_output_bias=True, mlp_bias=True, query_key_norm=True,
    ),
    MixtureConfig(
        family="mixture", layers=2, hidden=16, heads=2, key_value_heads=1, head_dim=8, inner=32, vocabulary=11,
        query_key_value_bias=True, attention_output_bias=True, query_key_norm=True, experts=4, expert_inner=24,
        sparse_every=2,
    ),
    BertConfig(family="bert", layers=2, hidden=16, heads=2, inner=32, vocabulary=11, sentence_order=False),
    T5Config(
        family="t5", layers=2, decoder_layers=3, hidden=16, heads=2, head_dim=8, inner=32, vocabulary=11, gated=True,
        tied=False,
    ),
    *RELATIVES,
]  # fmt: skip


def test_architecture_that_is_not_known_is_answered_with_all_that_are() -> None:
    with pytest.raises(ModelError, match=r"'Foo' is not one.*GPT2LM.*LlamaFor.*MistralFor.*Qwen2For.*Qwen3For"):
        adapter_of("Foo")
    for family in FAMILIES.values():
        for architecture in family.huggingface.architectures:
            assert adapter_of(architecture) is family.huggingface


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.family)
def test_no_two_tensors_share_a_place_and_no_part_of_a_file_is_forgotten(config: ModelConfig) -> None:
    adapter = family_of(config).huggingface
    sources = [adapter.source_of(name, config) for name in shapes_of(config)]
    assert len({(source.name, source.part) for source in sources}) == len(sources)
    for name in {source.name for source in sources}:
        parts = {source.part for source in sources if source.name == name}
        assert parts == set(range(next(source.parts for source in sources if source.name == name)))
        assert not adapter.is_constant(name)


BASE = CONFIGS[1].model_copy(update={"query_key_norm": False, "mlp_bias": False})


@pytest.mark.parametrize(
    ("changes", "architecture"),
    [
        ({}, "LlamaForCausalLM"),
        ({"query_key_value_bias": False, "attention_output_bias": False, "sliding_window": 4}, "MistralForCausalLM"),
        ({"query_key_value_bias": False, "attention_output_bias": False, "hidden": 17}, "MistralForCausalLM"),
        ({"attention_output_bias": False}, "Qwen2ForCausalLM"),
        ({"query_key_norm": True}, "Qwen3ForCausalLM"),
        ({"query_key_norm": True, "mlp_bias": True}, None),
        ({"query_key_value_bias": False}, None),
        ({"sliding_window": 4}, None),
        ({"hidden": 17}, None),
        ({"rotary_fraction": 0.5}, None),
    ],
    ids=str,
)
def test_config_goes_to_an_architecture_that_can_say_it_or_is_refused(changes: dict, architecture: str | None) -> None:
    config = BASE.model_copy(update=changes)
    to = FAMILIES["llama"].huggingface.config_to
    if architecture is not None:
        assert to(config)["architectures"] == [architecture]
        return
    with pytest.raises(ModelError, match=rf"no Hugging Face architecture .* has .*{next(iter(changes))}="):
        to(config)
