"""How the parameters of GPT-NeoX's shape are shared out; every parameter matches exactly one rule."""

from hanbit.models.plan import Plan
from hanbit.models.rules import ATTENTION, EMBEDDING, FINAL_NORM, LAYER_NORMS, OUTPUT, PLAIN_MLP, REGIONS, TIED

PLAN = Plan(
    rules=(EMBEDDING, *LAYER_NORMS, *ATTENTION, *PLAIN_MLP, FINAL_NORM, OUTPUT),
    regions=REGIONS,
    first=("embedding",),
    last=("norm", "output"),
    tied=TIED,
)
