"""How Llama's parameters are shared out; every parameter matches exactly one rule."""

from hanbit.models.plan import Plan, Rule, Word

PLAN = Plan(
    rules=(
        Rule("embedding.weight", Word.VOCABULARY, "vocabulary"),
        Rule("layers.*.attention_norm.weight", Word.REPLICATE),
        Rule("layers.*.attention.query.*", Word.COLUMN, "heads"),
        Rule("layers.*.attention.key.*", Word.COLUMN, "key_value_heads"),
        Rule("layers.*.attention.value.*", Word.COLUMN, "key_value_heads"),
        Rule("layers.*.attention.query_norm.weight", Word.SHARED),
        Rule("layers.*.attention.key_norm.weight", Word.SHARED),
        Rule("layers.*.attention.output.*", Word.ROW, "heads"),
        Rule("layers.*.mlp_norm.weight", Word.REPLICATE),
        Rule("layers.*.mlp.gate.*", Word.COLUMN, "inner"),
        Rule("layers.*.mlp.up.*", Word.COLUMN, "inner"),
        Rule("layers.*.mlp.down.*", Word.ROW, "inner"),
        Rule("norm.weight", Word.REPLICATE),
        Rule("output.weight", Word.VOCABULARY, "vocabulary"),
    ),
    regions=("layers.*.attention", "layers.*.mlp"),
    first=("embedding",),
    last=("norm", "output"),
    tied=(("output.weight", "embedding.weight"),),
)
