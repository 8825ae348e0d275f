"""Fresh weights: of the seed and the name alone, with the deviations that were asked for."""

import pytest
import torch

from hanbit.config.model import LlamaConfig, T5Config
from hanbit.models.initial import initial_value
from hanbit.models.registry import family_of

CONFIG = LlamaConfig(
    family="llama", layers=8, hidden=128, heads=4, key_value_heads=2, head_dim=32, inner=256, vocabulary=500,
    initial_deviation=0.05, query_key_norm=True, query_key_value_bias=True, attention_output_bias=True, mlp_bias=True,
)  # fmt: skip


def test_value_depends_on_seed_and_name_and_not_on_what_was_drawn_before() -> None:
    first = initial_value(CONFIG, "layers.3.mlp.up.weight", (256, 128), seed=5)
    torch.manual_seed(99)
    initial_value(CONFIG, "embedding.weight", (500, 128), seed=5)
    again = initial_value(CONFIG.model_copy(update={"layers": 9}), "layers.3.mlp.up.weight", (256, 128), seed=5)
    assert torch.equal(first, again)
    assert not torch.equal(first, initial_value(CONFIG, "layers.3.mlp.up.weight", (256, 128), seed=6))
    assert not torch.equal(first, initial_value(CONFIG, "layers.4.mlp.up.weight", (256, 128), seed=5))


def test_drawing_leaves_torchs_own_generator_alone() -> None:
    torch.manual_seed(0)
    wanted = torch.randn(3)
    torch.manual_seed(0)
    initial_value(CONFIG, "embedding.weight", (500, 128), seed=5)
    assert torch.equal(torch.randn(3), wanted)


def test_deviations_are_those_of_the_config_smaller_by_depth_at_the_ends_of_branches() -> None:
    with torch.device("meta"):
        model = family_of(CONFIG).build(CONFIG)
    for name, parameter in model.named_parameters():
        value = initial_value(CONFIG, name, tuple(parameter.shape), seed=1)
        assert value.dtype == torch.float32
        if name.endswith("bias"):
            assert not value.any()
        elif "norm" in name:
            assert (value == 1).all()
        else:
            is_end_of_branch = name.endswith(("attention.output.weight", "mlp.down.weight"))
            wanted = 0.05 / 4 if is_end_of_branch else 0.05  # sqrt(2 x 8 layers) = 4
            assert value.std() == pytest.approx(wanted, rel=0.05), name  # 8192 numbers: one deviation is 0.8%
            assert abs(value.mean()) < 5 * wanted / value.numel() ** 0.5


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("embedding.weight", (500, 64), 1.0),
        ("layers.0.attention.query.weight", (128, 64), 1 / 32),  # sqrt(64 hidden x 16 head_dim)
        ("layers.3.cross_attention.key.weight", (128, 64), 1 / 8),
        ("layers.3.attention.output.weight", (64, 256), 1 / 16),
        ("layers.3.mlp.down.weight", (64, 400), 1 / 20),
        ("encoder_bias.weight", (64, 320), 1 / 8),  # hidden is 64, too
    ],
)
def test_deviations_of_t5_are_those_of_mesh_tensorflow(name: str, shape: tuple[int, ...], wanted: float) -> None:
    config = T5Config(family="t5", layers=2, decoder_layers=2, hidden=64, heads=8, head_dim=16, vocabulary=500)
    assert initial_value(config, name, shape, seed=1).std() == pytest.approx(wanted, rel=0.05)
