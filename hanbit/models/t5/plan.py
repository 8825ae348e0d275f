"""How T5's parameters are shared out; every parameter matches exactly one rule.

What stands in the middle of the row of blocks, the decoder's embedding and the encoder's last norm, is on the stage of
the decoder's first block; each table of positions is on every stage that has a block of its stack.
"""

from typing import Any

from hanbit.models.plan import Plan, Rule, Word


def used_by(config: Any) -> dict[str, range]:
    encoder, layers = config.layers, config.layers + config.decoder_layers
    return {
        "embedding": range(0, encoder + 1, encoder),
        "encoder_bias": range(encoder),
        "encoder_norm": range(encoder, encoder + 1),
        "decoder_bias": range(encoder, layers),
        "norm": range(layers - 1, layers),
        "output": range(layers - 1, layers),
    }


PLAN = Plan(
    rules=(
        Rule("embedding.weight", Word.VOCABULARY, "vocabulary"),
        Rule("encoder_bias.weight", Word.COLUMN, "heads"),
        Rule("decoder_bias.weight", Word.COLUMN, "heads"),
        Rule("layers.*.attention_norm.weight", Word.REPLICATE),
        Rule("layers.*.attention.query.weight", Word.COLUMN, "heads"),
        Rule("layers.*.attention.key.weight", Word.COLUMN, "heads"),
        Rule("layers.*.attention.value.weight", Word.COLUMN, "heads"),
        Rule("layers.*.attention.output.weight", Word.ROW, "heads"),
        Rule("layers.*.cross_norm.weight", Word.REPLICATE),
        Rule("layers.*.cross_attention.query.weight", Word.COLUMN, "heads"),
        Rule("layers.*.cross_attention.key.weight", Word.COLUMN, "heads"),
        Rule("layers.*.cross_attention.value.weight", Word.COLUMN, "heads"),
        Rule("layers.*.cross_attention.output.weight", Word.ROW, "heads"),
        Rule("layers.*.mlp_norm.weight", Word.REPLICATE),
        Rule("layers.*.mlp.gate.weight", Word.COLUMN, "inner"),
        Rule("layers.*.mlp.up.weight", Word.COLUMN, "inner"),
        Rule("layers.*.mlp.down.weight", Word.ROW, "inner"),
        Rule("encoder_norm.weight", Word.REPLICATE),
        Rule("norm.weight", Word.REPLICATE),
        Rule("output.weight", Word.VOCABULARY, "vocabulary"),
    ),
    regions=("layers.*.attention", "layers.*.cross_attention", "layers.*.mlp"),
    first=("embedding", "encoder_bias"),
    last=("encoder_norm", "decoder_bias", "norm", "output"),
    tied=(("output.weight", "embedding.weight"),),
    used_by=used_by,
)
