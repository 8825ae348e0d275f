"""How a mixture's parameters are shared out; every parameter matches exactly one rule.

The router is whole on every rank and inside the region: each rank weighs its own part of the experts' outputs with it,
so its gradient is partial, as a head norm's.
"""

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
        Rule("layers.*.mlp.gate.weight", Word.COLUMN, "inner"),
        Rule("layers.*.mlp.up.weight", Word.COLUMN, "inner"),
        Rule("layers.*.mlp.down.weight", Word.ROW, "inner"),
        Rule("layers.*.mlp.router.weight", Word.SHARED),
        Rule("layers.*.mlp.experts.gate", Word.COLUMN, "expert_inner", is_stack=True),
        Rule("layers.*.mlp.experts.up", Word.COLUMN, "expert_inner", is_stack=True),
        Rule("layers.*.mlp.experts.down", Word.ROW, "expert_inner", is_stack=True),
        Rule("norm.weight", Word.REPLICATE),
        Rule("output.weight", Word.VOCABULARY, "vocabulary"),
    ),
    regions=("layers.*.attention", "layers.*.mlp"),
    first=("embedding",),
    last=("norm", "output"),
    tied=(("output.weight", "embedding.weight"),),
)
