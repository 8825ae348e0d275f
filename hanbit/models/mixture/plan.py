"""How a mixture's parameters are shared out: Llama's, and what stands in place of its MLP in sparse layers.

The router is whole on every rank and inside the region: each rank weighs its own part of the experts' outputs with it,
so its gradient is partial, as a head norm's.
"""

from dataclasses import replace

from hanbit.models.llama.plan import PLAN as LLAMA
from hanbit.models.plan import Rule, Word

PLAN = replace(
    LLAMA,
    rules=(
        *LLAMA.rules,
        Rule("layers.*.mlp.router.weight", Word.SHARED),
        Rule("layers.*.mlp.experts.gate", Word.COLUMN, "expert_inner", is_stack=True),
        Rule("layers.*.mlp.experts.up", Word.COLUMN, "expert_inner", is_stack=True),
        Rule("layers.*.mlp.experts.down", Word.ROW, "expert_inner", is_stack=True),
    ),
)
