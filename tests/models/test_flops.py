"""The FLOP convention against torch's own counter, and against numbers worked out by hand."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hanbit.config.model import BertConfig, GPTConfig, LlamaConfig, MixtureConfig, ModelConfig, T5Config
from hanbit.models.flops import Tokens, flops_per_sequence
from hanbit.models.registry import family_of
from tests.models.relatives import RELATIVES

TIME, SAID, WRITTEN = 12, 5, 7
GPT = GPTConfig(family="gpt", layers=2, hidden=24, heads=3, inner=40, vocabulary=31, context=16, tied=True)
LLAMA = LlamaConfig(
    family="llama", layers=3, hidden=24, heads=4, key_value_heads=2, head_dim=10, inner=40, vocabulary=31, context=16
)
MIXTURE = MixtureConfig(
    **LLAMA.model_dump(exclude={"family"}), family="mixture", experts=5, experts_per_token=2, expert_inner=20,
    sparse_every=2,
)  # fmt: skip
BERT = BertConfig(family="bert", layers=2, hidden=24, heads=3, inner=40, vocabulary=31, context=16)
T5 = T5Config(
    family="t5", layers=3, decoder_layers=2, hidden=24, heads=4, head_dim=10, inner=40, vocabulary=31, context=16
)
GPT_1B = GPTConfig(family="gpt", layers=24, hidden=2048, heads=16, inner=8192, vocabulary=50304, context=8192)
LLAMA_1B = LlamaConfig(
    family="llama", layers=16, hidden=2048, heads=32, key_value_heads=8, head_dim=64, inner=8192, vocabulary=128256,
    context=8192, tied=True,
)  # fmt: skip
LLAMA_8B = LlamaConfig(
    family="llama", layers=32, hidden=4096, heads=32, key_value_heads=8, head_dim=128, inner=14336, vocabulary=128256,
    context=8192,
)  # fmt: skip


def plain_attention(layer: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Any = 0.0) -> torch.Tensor:
    """By two products that a counter sees, of every token with every token."""
    q, k, v = (tensor.transpose(-2, -3) for tensor in (q, k, v))
    groups = q.shape[-3] // k.shape[-3]
    k, v = (tensor.repeat_interleave(groups, -3) for tensor in (k, v))
    return (torch.softmax(q @ k.transpose(-1, -2) + bias, -1) @ v).transpose(-2, -3)


def counted(config: ModelConfig, is_frozen: bool) -> int:
    """What torch counts in one forward and backward pass over one sequence of TIME tokens."""
    model = family_of(config).build(config).requires_grad_(not is_frozen)
    tokens = torch.randint(config.vocabulary, (1, TIME))
    positions = torch.arange(TIME)
    with FlopCounterMode(display=False) as counter:
        hidden = model.embed(tokens, positions)
        hidden = hidden.requires_grad_() if is_frozen else hidden
        logits = model.head(model.trunk(hidden, positions, lambda index: plain_attention))
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("config", [GPT, LLAMA, MIXTURE, LLAMA.model_copy(update={"tied": True}), *RELATIVES])
def test_full_convention_is_what_torch_counts_when_nothing_is_masked(config: ModelConfig, is_frozen: bool) -> None:
    assert flops_per_sequence(config, Tokens(TIME), is_frozen).full == counted(config, is_frozen)


@pytest.mark.parametrize("config", [BERT, BERT.model_copy(update={"sentence_order": False})])
def test_of_berts_head_hidden_words_alone_are_counted(config: BertConfig) -> None:
    model = family_of(config).build(config)
    tokens = torch.randint(31, (1, TIME))
    with FlopCounterMode(display=False) as counter:
        batch = {"tokens": tokens, "segments": torch.zeros_like(tokens)}
        (hidden,) = model.advance((), batch, lambda index: plain_attention)
        loss = model.head(hidden[0, :SAID]).sum()
        (loss + model.order_of(hidden).sum() if config.sentence_order else loss).backward()
    flops = flops_per_sequence(config, Tokens(TIME, said=SAID))
    assert flops.full == flops.causal == counter.get_total_flops()


@pytest.mark.parametrize("config", [T5, T5.model_copy(update={"gated": True, "tied": False})])
def test_of_t5_each_stack_counts_its_own_tokens(config: T5Config) -> None:
    model = family_of(config).build(config)
    batch = {"tokens": torch.randint(31, (1, TIME)), "decoder_tokens": torch.randint(31, (1, WRITTEN))}
    with FlopCounterMode(display=False) as counter:
        hidden, _ = model.advance((), batch, lambda index: (plain_attention, plain_attention))
        model.head(hidden).sum().backward()
    flops = flops_per_sequence(config, Tokens(TIME, written=WRITTEN))
    assert flops.full == counter.get_total_flops()
    # the decoder alone has a mask: half of 2 layers' 12 x 4 heads x 10 x 7 x 7
    assert flops.full - flops.causal == 2 * 12 * 40 * WRITTEN**2 / 2


@pytest.mark.parametrize(
    ("config", "length", "billions"),
    [
        (GPT_1B, 2048, 9.07),
        (GPT_1B, 8192, 12.7),
        (LLAMA_1B, 2048, 8.22),
        (LLAMA_8B, 4096, 51.5),
        (LLAMA_8B, 8192, 57.9),
    ],
)
def test_well_known_shapes_have_the_published_flops(config: ModelConfig, length: int, billions: float) -> None:
    assert flops_per_sequence(config, Tokens(length)).full / length / 1e9 == pytest.approx(billions, rel=2e-3)


def test_causal_convention_counts_half_of_the_attention() -> None:
    flops = flops_per_sequence(LLAMA_8B, Tokens(8192))
    assert flops.full - flops.causal == flops.attention / 2


def test_layers_of_two_kinds_are_counted_each_by_its_own_window() -> None:
    """Of four layers two see all of 8 tokens, half of the square, two a window of 5: 8 x 5 less a triangle of 5 x 5."""
    exaone = next(config for config in RELATIVES if config.family == "exaone")
    flops = flops_per_sequence(exaone, Tokens(8))
    assert flops.attention_causal / flops.attention == pytest.approx((2 * 32 + 2 * (40 - 12.5)) / (4 * 64))


def test_causal_convention_counts_only_what_a_window_shows() -> None:
    """Of 8 tokens with a window of 4: four rows of a growing triangle, edges counted half, then four of 4 tokens."""
    flops = flops_per_sequence(LLAMA_8B.model_copy(update={"sliding_window": 4}), Tokens(8))
    triangle = 0.5 + 1.5 + 2.5 + 3.5
    assert flops.attention_causal / flops.attention == pytest.approx((triangle + 4 * 4) / (8 * 8))
