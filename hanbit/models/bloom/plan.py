"""How BLOOM's parameters are shared out; every parameter matches exactly one rule.

Slopes of heads are no parameters: a rank's attention keeps those of its own heads (parallel/tensor.py).
"""

from hanbit.models.plan import Plan, Rule, Word
from hanbit.models.rules import ATTENTION, EMBEDDING, FINAL_NORM, LAYER_NORMS, OUTPUT, PLAIN_MLP, REGIONS, TIED

PLAN = Plan(
    rules=(
        EMBEDDING,
        Rule("embedding_norm.*", Word.REPLICATE),
        *LAYER_NORMS,
        *ATTENTION,
        *PLAIN_MLP,
        FINAL_NORM,
        OUTPUT,
    ),
    regions=REGIONS,
    first=("embedding", "embedding_norm"),
    last=("norm", "output"),
    tied=TIED,
)
