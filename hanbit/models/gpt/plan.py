"""How GPT's parameters are shared out; every parameter matches exactly one rule."""

from hanbit.models.plan import Plan, Rule, Word

PLAN = Plan(
    rules=(
        Rule("embedding.weight", Word.VOCABULARY, "vocabulary"),
        Rule("position_embedding.weight", Word.REPLICATE),
        Rule("layers.*.attention_norm.*", Word.REPLICATE),
        Rule("layers.*.attention.query.*", Word.COLUMN, "heads"),
        Rule("layers.*.attention.key.*", Word.COLUMN, "heads"),
        Rule("layers.*.attention.value.*", Word.COLUMN, "heads"),
        Rule("layers.*.attention.output.*", Word.ROW, "heads"),
        Rule("layers.*.mlp_norm.*", Word.REPLICATE),
        Rule("layers.*.mlp.up.*", Word.COLUMN, "inner"),
        Rule("layers.*.mlp.down.*", Word.ROW, "inner"),
        Rule("norm.*", Word.REPLICATE),
        Rule("output.weight", Word.VOCABULARY, "vocabulary"),
    ),
    regions=("layers.*.attention", "layers.*.mlp"),
    first=("embedding", "position_embedding"),
    last=("norm", "output"),
    tied=(("output.weight", "embedding.weight"),),
)
