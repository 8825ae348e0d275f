"""How BERT's parameters are shared out; every parameter matches exactly one rule.

The heads' small layers are whole on every rank and get whole hidden states; only the vocabulary is cut.
"""

from hanbit.models.plan import Plan, Rule, Word

PLAN = Plan(
    rules=(
        Rule("embedding.weight", Word.VOCABULARY, "vocabulary"),
        Rule("position_embedding.weight", Word.REPLICATE),
        Rule("segment_embedding.weight", Word.REPLICATE),
        Rule("embedding_norm.*", Word.REPLICATE),
        Rule("layers.*.attention.query.*", Word.COLUMN, "heads"),
        Rule("layers.*.attention.key.*", Word.COLUMN, "heads"),
        Rule("layers.*.attention.value.*", Word.COLUMN, "heads"),
        Rule("layers.*.attention.output.*", Word.ROW, "heads"),
        Rule("layers.*.attention_norm.*", Word.REPLICATE),
        Rule("layers.*.mlp.up.*", Word.COLUMN, "inner"),
        Rule("layers.*.mlp.down.*", Word.ROW, "inner"),
        Rule("layers.*.mlp_norm.*", Word.REPLICATE),
        Rule("transform.*", Word.REPLICATE),
        Rule("transform_norm.*", Word.REPLICATE),
        Rule("output.*", Word.VOCABULARY, "vocabulary"),
        Rule("pooler.*", Word.REPLICATE),
        Rule("order.*", Word.REPLICATE),
    ),
    regions=("layers.*.attention", "layers.*.mlp"),
    first=("embedding", "position_embedding", "segment_embedding", "embedding_norm"),
    last=("transform", "transform_norm", "output", "pooler", "order"),
    tied=(("output.weight", "embedding.weight"),),
)
