"""How EXAONE's parameters are shared out: Llama's, whose norms stand behind attention and MLP and not before them."""

from dataclasses import replace

from hanbit.models.llama.plan import PLAN as LLAMA
from hanbit.models.rules import END_NORMS

_BEFORE = ("layers.*.attention_norm.weight", "layers.*.mlp_norm.weight")

PLAN = replace(LLAMA, rules=(*(rule for rule in LLAMA.rules if rule.pattern not in _BEFORE), *END_NORMS))
