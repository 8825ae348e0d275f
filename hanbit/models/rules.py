"""Rules that plans of several families share; each family's `plan.py` says which of them it has."""

from hanbit.models.plan import Rule, Word

EMBEDDING = Rule("embedding.weight", Word.VOCABULARY, "vocabulary")
ATTENTION = (
    Rule("layers.*.attention.query.*", Word.COLUMN, "heads"),
    Rule("layers.*.attention.key.*", Word.COLUMN, "heads"),
    Rule("layers.*.attention.value.*", Word.COLUMN, "heads"),
    Rule("layers.*.attention.output.*", Word.ROW, "heads"),
)
PLAIN_MLP = (
    Rule("layers.*.mlp.up.*", Word.COLUMN, "inner"),
    Rule("layers.*.mlp.down.*", Word.ROW, "inner"),
)
LAYER_NORMS = (
    Rule("layers.*.attention_norm.*", Word.REPLICATE),
    Rule("layers.*.mlp_norm.*", Word.REPLICATE),
)
END_NORMS = (
    Rule("layers.*.attention_end_norm.weight", Word.REPLICATE),
    Rule("layers.*.mlp_end_norm.weight", Word.REPLICATE),
)
FINAL_NORM = Rule("norm.*", Word.REPLICATE)
OUTPUT = Rule("output.*", Word.VOCABULARY, "vocabulary")
REGIONS = ("layers.*.attention", "layers.*.mlp")
TIED = (("output.weight", "embedding.weight"),)
