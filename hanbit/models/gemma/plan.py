"""How Gemma's parameters are shared out: Llama's, and the norms behind attention and MLP."""

from dataclasses import replace

from hanbit.models.llama.plan import PLAN as LLAMA
from hanbit.models.rules import END_NORMS

PLAN = replace(LLAMA, rules=(*LLAMA.rules, *END_NORMS))
