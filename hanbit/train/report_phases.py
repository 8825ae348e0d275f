"""One bar of the report: the phases that the time of a step is made of."""

from typing import Any

from hanbit.train.metrics import is_number
from hanbit.train.report_words import both

PHASES = ("forward_backward", "communication", "pipeline_idle", "optimizer", "data")


def phases_card(rows: list[dict[str, Any]]) -> str:
    """HTML; "" where no row tells its phases. Steps of any length count by their seconds."""
    shares = shares_of(rows)
    if not shares:
        return ""
    told = [(phase, share) for phase, share in shares.items() if share >= 0.0005]
    bar = "".join(f'<span class="{phase}" style="flex-grow:{share:.4f}"></span>' for phase, share in told)
    key = "".join(f'<span><i class="{phase}"></i>{both(phase)}<b>{share:.1%}</b></span>' for phase, share in told)
    top = f'<div class="top"><h2>{both("time_of_a_step")}</h2><p class="at">{both("phases_are")}</p></div>'
    return f'<section class="card wide">{top}<div class="bar">{bar}</div><p class="phases">{key}</p></section>'


def shares_of(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Part of the steps' time by phase, what no phase claims as "other"; they add up to 1."""
    keys = ["step_seconds", *(f"{phase}_seconds" for phase in PHASES)]
    timed = [row for row in rows if all(is_number(row.get(key)) for key in keys)]
    whole = sum(row["step_seconds"] for row in timed)
    if whole <= 0:
        return {}
    shares = {phase: sum(max(0.0, row[f"{phase}_seconds"]) for row in timed) / whole for phase in PHASES}
    return {**shares, "other": max(0.0, 1 - sum(shares.values()))}
