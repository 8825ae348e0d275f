"""How GPT's parameters are shared out; every parameter matches exactly one rule."""

from hanbit.models.plan import Plan, Rule, Word
from hanbit.models.rules import ATTENTION, EMBEDDING, FINAL_NORM, LAYER_NORMS, OUTPUT, PLAIN_MLP, REGIONS, TIED

PLAN = Plan(
    rules=(
        EMBEDDING,
        Rule("position_embedding.weight", Word.REPLICATE),
        *LAYER_NORMS,
        *ATTENTION,
        *PLAIN_MLP,
        FINAL_NORM,
        OUTPUT,
    ),
    regions=REGIONS,
    first=("embedding", "position_embedding"),
    last=("norm", "output"),
    tied=TIED,
)
