"""The three parts of a model: cut into stages, with a rank's share of the heads, tied again, compiled by blocks."""

import copy

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.nn import functional as F

from hanbit.config.model import GPTConfig, LlamaConfig, MixtureConfig, ModelConfig
from hanbit.models.layers.attend import causal, causal_attention
from hanbit.models.layers.attention import Attention
from hanbit.models.layers.decoder import Decoder
from hanbit.models.registry import FAMILIES, family_of
from tests.models.relatives import RELATIVES

CONFIGS: list[ModelConfig] = [
    GPTConfig(family="gpt", layers=4, hidden=32, heads=4, inner=48, vocabulary=19, context=64),
    LlamaConfig(
        family="llama", layers=4, hidden=32, heads=4, key_value_heads=2, head_dim=8, inner=48, vocabulary=19,
        query_key_norm=True, sliding_window=5, tied=True,
    ),
    MixtureConfig(
        family="mixture", layers=4, hidden=32, heads=4, key_value_heads=2, head_dim=8, inner=48, vocabulary=19,
        experts=4, expert_inner=24, sparse_every=2,
    ),
    *RELATIVES,
]  # fmt: skip
TOKENS = torch.randint(19, (2, 12), generator=torch.Generator().manual_seed(0))
POSITIONS = torch.arange(12)
each_family = pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.family)


def built(config: ModelConfig) -> Decoder:
    torch.manual_seed(0)
    return family_of(config).build(config)


def logits_of(model: Decoder, tokens: torch.Tensor = TOKENS) -> torch.Tensor:
    return model.head(model.trunk(model.embed(tokens, POSITIONS), POSITIONS, causal()))


def test_every_family_of_decoders_is_tried_here() -> None:
    assert {config.family for config in CONFIGS} == set(FAMILIES) - {"bert", "t5"}


@each_family
def test_stages_with_their_parts_alone_make_the_whole_model(config: ModelConfig) -> None:
    whole, plan = built(config), family_of(config).plan
    asked: list[int] = []

    def attend(index: int):
        asked.append(index)
        return causal_attention

    hidden = TOKENS
    for wanted in ({"0"}, {"1", "2"}, {"3"}):
        stage = copy.deepcopy(whole)
        for key in set(stage.layers) - wanted:
            del stage.layers[key]
        for name in () if "0" in wanted else plan.first:
            delattr(stage, name)
        for name in () if "3" in wanted else plan.last:
            delattr(stage, name)
        stage.tie()
        hidden = stage.embed(hidden, POSITIONS) if "0" in wanted else hidden
        hidden = stage.trunk(hidden, POSITIONS, attend)
        hidden = stage.head(hidden) if "3" in wanted else hidden
    assert torch.equal(hidden, logits_of(whole))
    assert asked == [0, 1, 2, 3]


@each_family
def test_token_does_not_see_those_after_it(config: ModelConfig) -> None:
    model = built(config)
    changed = TOKENS.clone()
    changed[:, 7] = (changed[:, 7] + 1) % 19
    before, after = logits_of(model), logits_of(model, changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


@each_family
def test_flat_tokens_give_what_a_batch_of_one_gives(config: ModelConfig) -> None:
    model = built(config)
    flat, batched = logits_of(model, TOKENS[0]), logits_of(model, TOKENS[:1])[0]
    torch.testing.assert_close(flat, batched, rtol=0, atol=1e-5 * batched.std().item())  # fp32, other matrix shapes


@each_family
@pytest.mark.parametrize("tied", [True, False])
def test_tying_again_joins_replaced_weights_where_the_config_says_so(config: ModelConfig, tied: bool) -> None:
    model = built(config.model_copy(update={"tied": tied}))
    model.embedding.weight = nn.Parameter(torch.randn(19, 32))
    assert model.output.weight is not model.embedding.weight
    model.tie()
    assert (model.output.weight is model.embedding.weight) == tied


@pytest.mark.parametrize("config", CONFIGS[:2], ids=lambda config: config.family)  # experts count rows: graph breaks
def test_blocks_compiled_alone_share_one_graph_also_when_attend_changes(config: ModelConfig) -> None:
    torch._dynamo.reset()
    model, counter = built(config), CompileCounter()
    wanted = logits_of(model)
    for block in model.layers.values():
        block.compile(backend=counter, fullgraph=True, dynamic=False)
    for _ in range(2):  # a new closure with a tensor of its own each step, as engines have
        scale = torch.ones(())

        def function(layer: Attention, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale=scale) -> torch.Tensor:
            return causal_attention(layer, q * scale, k, v)

        hidden = model.trunk(model.embed(TOKENS, POSITIONS), POSITIONS, lambda index, function=function: function)
        torch.testing.assert_close(model.head(hidden), wanted, rtol=0, atol=1e-6)
    assert counter.frame_count == 1


@pytest.mark.parametrize("query_key_norm", [False, True])
def test_two_halves_of_the_heads_add_up_to_the_whole(query_key_norm: bool) -> None:
    """What tensor parallel ranks do, without processes: no shape in the layer is written down but head_dim."""
    torch.manual_seed(0)
    whole = Attention(
        32, 4, 2, 8, bias=True, output_bias=False, head_norm_epsilon=1e-5 if query_key_norm else None, sliding_window=5
    )
    hidden, total = torch.randn(2, 12, 32), torch.zeros(2, 12, 32)
    for half in range(2):
        part = copy.deepcopy(whole)
        for linear in (part.query, part.key, part.value):
            linear.weight = nn.Parameter(linear.weight.chunk(2)[half])
            linear.bias = nn.Parameter(linear.bias.chunk(2)[half])
        part.output.weight = nn.Parameter(part.output.weight.chunk(2, dim=1)[half])
        total = total + part(hidden, None, causal_attention)
    torch.testing.assert_close(total, whole(hidden, None, causal_attention), rtol=0, atol=1e-6)


@pytest.mark.parametrize("window", [None, 1, 3, 12, 50])
@pytest.mark.parametrize("key_value_heads", [1, 2, 4])
def test_causal_attention_equals_a_plain_loop(window: int | None, key_value_heads: int) -> None:
    torch.manual_seed(0)
    layer = Attention(32, 4, key_value_heads, 8, bias=False, output_bias=False, sliding_window=window)
    layer.scale = 0.5  # not the usual 1 / sqrt(8), to see that it is heeded
    q, k, v = (torch.randn(2, 12, heads, 8) for heads in (4, key_value_heads, key_value_heads))
    found = causal_attention(layer, q, k, v)
    for batch in range(2):
        for head in range(4):
            keys = k[batch, :, head * key_value_heads // 4].double()
            values = v[batch, :, head * key_value_heads // 4].double()
            for token in range(12):
                first = 0 if window is None else max(0, token - window + 1)
                scores = keys[first : token + 1] @ q[batch, token, head].double() * 0.5
                wanted = F.softmax(scores, 0) @ values[first : token + 1]
                torch.testing.assert_close(found[batch, token, head].double(), wanted, rtol=0, atol=1e-5)
