"""`report.html`: what a run did, in one file that opens offline. Korean and English, light and dark.

Everything that comes from the run folder is escaped, and the page forbids itself any script but its own (a content
security policy with the script's hash), so that a report from someone else may be opened.
"""

import base64
import hashlib
import html
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.common.atomic import write_text
from hanbit.common.language import is_korean
from hanbit.common.run_folder import RunFolder
from hanbit.common.units import readable_bytes, readable_count, readable_seconds
from hanbit.train.axis import Scale, reading
from hanbit.train.chart import Line, Point, chart
from hanbit.train.metrics import is_number, read_metrics
from hanbit.train.report_page import SCRIPT, STYLE
from hanbit.train.report_phases import phases_card
from hanbit.train.report_words import both, one


@dataclass(frozen=True)
class Run:
    """What the files of a run folder say; pieces that are missing are empty."""

    name: str
    rows: list[dict[str, Any]]  # each has a finite "step"
    recipe: str
    environment: dict[str, Any]

    def series(self, key: str) -> list[Point]:
        """The finite values of `key`; a row without its own tokens has those of the training row of its step."""
        tokens = {row["step"]: row["tokens"] for row in self.rows if is_number(row.get("tokens"))}
        return [Point(row["step"], row[key], tokens.get(row["step"])) for row in self.rows if is_number(row.get(key))]

    @property
    def last_step(self) -> float:
        return max((row["step"] for row in self.rows), default=0)


def write_report(folder: RunFolder, sections: str = "") -> None:
    """Make `report.html` anew from the run folder's other files; any of them may be missing.

    sections: HTML that stands below the curves, escaped by whoever made it.
    """
    run = Run(
        folder.path.resolve().name, read_metrics(folder.metrics), _text(folder.config), _environment(folder.environment)
    )
    language = "ko" if is_korean() else "en"
    # a folder's name may hold bytes that are no UTF-8: they become "?"
    write_text(folder.report, page(run, language, sections).encode("utf-8", "replace").decode("utf-8"))


def page(run: Run, language: str, sections: str = "") -> str:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode("utf-8")).digest()).decode("ascii")
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    name = html.escape(run.name)
    return f"""<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} · hanbit</title><style>{STYLE}</style></head><body>
<header><div><p class="soft">hanbit · {both("report")}</p><h1>{name}</h1>
<p class="soft">{_machine(run.environment)}</p></div>
<button><span class="en" lang="ko">한국어</span><span class="ko" lang="en">English</span></button></header>
{_facts(run)}
<main>
{_loss_card(run, language)}
{_card("learning_rate", "learning_rate", run, language, "zero")}
{_card("grad_norm", "grad_norm", run, language, "log")}
{_card("speed", "tokens_per_second", run, language, "zero")}
{_known("mfu", "mfu", run, language, unit=0.01) or _known("model_flops", "model_flops_per_second", run, language)}
{_known("memory", "peak_memory_bytes", run, language, unit=1e9)}
</main>
{phases_card(run.rows)}
{sections}
{_folded("recipe", run.recipe)}
{_folded("environment", json.dumps(run.environment, indent=2, ensure_ascii=False) if run.environment else "")}
<script>{SCRIPT}</script></body></html>
"""


def facts(run: Run) -> dict[str, str]:
    """The numbers on top as HTML, by their word; what the metrics do not tell is left out."""
    loss, validation = run.series("loss"), run.series("validation_loss")
    tokens, speed, time = run.series("tokens"), run.series("tokens_per_second"), run.series("step_seconds")
    found: dict[str, str] = {}
    if run.rows:
        found["steps"] = f"{run.last_step:,.0f}"
    if tokens:
        found["tokens"] = readable_count(tokens[-1].value)
    if loss:
        found["last_loss"] = f"{loss[-1].value:.4f}"
    if validation:
        found["last_validation"] = f"{validation[-1].value:.4f}"
    if speed:
        found["median_speed"] = readable_count(statistics.median(point.value for point in speed))
    mfu, memory = run.series("mfu"), run.series("peak_memory_bytes")
    if mfu:
        found["last_mfu"] = f"{statistics.median(point.value for point in mfu):.1%}"
    if memory:
        found["peak_memory"] = readable_bytes(max(point.value for point in memory))
    if time:
        found["time"] = _time(sum(point.value for point in time))
    left = run.series("time_left_seconds")
    if left and left[-1].value > 0:
        found["time_left"] = _time(left[-1].value)
    return found


def _facts(run: Run) -> str:
    tiles = [f"<div><dt>{both(word)}</dt><dd>{value}</dd></div>" for word, value in facts(run).items()]
    return f"<dl>{''.join(tiles)}</dl>" if tiles else ""


def _machine(environment: dict[str, Any]) -> str:
    """One line: the processes and their grid, then the hardware they ran on."""
    said = {key: html.escape(str(environment[key])) for key in environment}
    parts = []
    if "processes" in said:
        grid = environment.get("grid")
        sizes = grid.items() if isinstance(grid, dict) else ()
        shape = html.escape(" × ".join(f"{size} {axis}" for axis, size in sizes if size != 1))
        parts.append(both("processes", said["processes"]) + (f" ({shape})" if shape else ""))
    parts += [said[key] for key in ("device", "processor") if key in said]
    if "cores" in said:
        parts.append(both("cores", said["cores"]))
    if "torch" in said:
        parts.append(f"torch {said['torch']}")
    return " · ".join(parts)


def _loss_card(run: Run, language: str) -> str:
    training = Line(one("training", language), run.series("loss"))
    validation = Line(one("validation", language), run.series("validation_loss"), "second")
    words = [word for word, line in (("training", training), ("validation", validation)) if line.points]
    return _framed("loss", words, [line for line in (training, validation) if line.points], run, language, "range")


def _card(word: str, key: str, run: Run, language: str, scale: Scale) -> str:
    return _framed(word, [""], [Line(one(word, language), run.series(key))], run, language, scale)


def _known(word: str, key: str, run: Run, language: str, unit: float = 1) -> str:
    """A card for numbers that not every run has."""
    points = [point._replace(value=point.value / unit) for point in run.series(key)]
    return _framed(word, [""], [Line(one(word, language), points)], run, language, "zero") if points else ""


def _framed(word: str, labels: list[str], lines: list[Line], run: Run, language: str, scale: Scale) -> str:
    """A chart under its name and the readings of its lines: at the last step, until a pointer asks for another."""
    names = (one("step", language), one("tokens", language))
    drawn = chart(one(word, language), lines, run.last_step, names, scale)
    if not drawn:
        return f'<section class="card"><h2>{both(word)}</h2><p class="nothing">{both("nothing")}</p></section>'
    keys = [_key(label, line) for label, line in zip(labels, lines, strict=True)]
    last = lines[0].points[-1]
    tokens = "–" if last.tokens is None else readable_count(last.tokens)
    at = f'{both("step")} <span class="step">{last.step:,.0f}</span> · <span class="tokens">{tokens}</span>'
    top = f'<div class="top"><h2>{both(word)}</h2><p class="at">{at} {both("tokens")}</p></div>'
    return f'<section class="card">{top}<p class="key">{"".join(keys)}</p>{drawn}</section>'


def _key(label: str, line: Line) -> str:
    swatch = f'<i class="{line.kind}"></i>{both(label)}' if label else ""
    last = reading(line.points[-1].value)
    return f'<span>{swatch}<output class="{line.kind}">{last}</output><small></small></span>'


def _folded(word: str, text: str) -> str:
    if not text:
        return ""
    return f'<details class="card"><summary>{both(word)}</summary><pre>{html.escape(text)}</pre></details>'


def _time(seconds: float) -> str:
    english = korean = readable_seconds(seconds)
    for unit, sign in ((" d", "일"), (" h", "시간"), (" min", "분"), (" s", "초")):
        korean = korean.replace(unit, sign)
    return f'<span class="en">{english}</span><span class="ko">{korean}</span>'


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _environment(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except json.JSONDecodeError:  # missing, or cut short: the curves are worth showing without it
        return {}
    return found if isinstance(found, dict) else {}
