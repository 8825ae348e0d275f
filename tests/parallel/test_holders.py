"""Which stages hold a weight together, for families by hand."""

import pytest
import torch

from hanbit.config.model import GPTConfig, ModelConfig, T5Config
from hanbit.models.registry import family_of
from hanbit.parallel.holders import holders_of, ranges

T5 = {"family": "t5", "layers": 4, "decoder_layers": 2, "hidden": 16, "heads": 2, "head_dim": 8, "inner": 32}
TIED_T5 = T5Config(**T5, vocabulary=11)
UNTIED_T5 = T5Config(**T5, vocabulary=11, tied=False)
GPT = GPTConfig(family="gpt", layers=6, hidden=16, heads=2, inner=32, vocabulary=11)


@pytest.mark.parametrize(
    ("config", "stages", "wanted"),
    [
        (GPT, 3, {"embedding.weight": (0, 2)}),
        (GPT.model_copy(update={"tied": False}), 3, {}),
        # two stages, layers 0 1 2 | 3 4 5: the encoder's last layer is on the decoder's stage
        (TIED_T5, 2, {"embedding.weight": (0, 1), "encoder_bias.weight": (0, 1)}),
        # three: 0 1 | 2 3 | 4 5
        (TIED_T5, 3, {"embedding.weight": (0, 2), "encoder_bias.weight": (0, 1)}),
        # six, one layer each: the decoder's embedding is on the fifth, the output on the sixth
        (
            TIED_T5, 6,
            {"embedding.weight": (0, 4, 5), "encoder_bias.weight": (0, 1, 2, 3), "decoder_bias.weight": (4, 5)},
        ),
        (
            UNTIED_T5, 6,
            {"embedding.weight": (0, 4), "encoder_bias.weight": (0, 1, 2, 3), "decoder_bias.weight": (4, 5)},
        ),
        (TIED_T5, 1, {}),
    ],
)  # fmt: skip
def test_a_weight_is_held_by_the_stages_that_use_it(
    config: ModelConfig, stages: int, wanted: dict[str, tuple[int, ...]]
) -> None:
    family = family_of(config)
    with torch.device("meta"):
        model = family.build(config)
    tied = family.plan.tied if config.tied else ()
    assert holders_of(model, family.plan, tied, ranges((6 // stages,) * stages)) == wanted
