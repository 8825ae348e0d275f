"""`report.html`: what a run did, in one file that opens offline. Korean and English, light and dark."""

import html
import json
import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanbit.common.atomic import write_text
from hanbit.common.run_folder import RunFolder
from hanbit.common.units import readable_count, readable_seconds
from hanbit.train.chart import Line, chart
from hanbit.train.metrics import read_metrics

# English and Korean of every word the page says; both are in the file, a button changes between them
WORDS = {
    "loss": ("Loss", "손실"),
    "validation": ("validation", "검증"),
    "training": ("training", "학습"),
    "learning_rate": ("Learning rate", "학습률"),
    "grad_norm": ("Gradient norm", "기울기 노름"),
    "speed": ("Tokens per second", "초당 토큰"),
    "steps": ("steps", "단계"),
    "tokens": ("tokens", "토큰"),
    "last_loss": ("last loss", "마지막 손실"),
    "last_validation": ("last validation loss", "마지막 검증 손실"),
    "median_speed": ("tokens/s (median)", "토큰/초 (중앙값)"),
    "time": ("time in steps", "단계에 든 시간"),
    "recipe": ("Recipe, resolved", "풀린 레시피"),
    "environment": ("Environment", "환경"),
    "processes": ("processes", "프로세스"),
    "x_axis": ("horizontal: step", "가로: 단계"),
}

STYLE = """
:root { color-scheme: light dark; --ink: #1d2330; --soft: #667085; --line: #e3e7ee; --paper: #fff; --card: #f7f8fb;
  --first: #0b62c4; --second: #c2410c }
@media (prefers-color-scheme: dark) { :root { --ink: #e8ebf2; --soft: #9aa4b8; --line: #2c3445; --paper: #12161f;
  --card: #1a202c; --first: #6db3ff; --second: #ffa057 } }
* { box-sizing: border-box } body { margin: 0 auto; max-width: 1060px; padding: 28px 20px 60px;
  background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Noto Sans KR", "Noto Sans CJK KR", "Malgun Gothic", sans-serif }
header { display: flex; justify-content: space-between; align-items: baseline; gap: 16px }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere } h2 { font-size: 15px; margin: 0 0 6px; font-weight: 600 }
button { font: inherit; color: var(--ink); background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 4px 12px; cursor: pointer }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 10px; margin: 18px 0 }
dl div, section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 12px 16px }
dt { color: var(--soft); font-size: 13px } dd { margin: 0; font-size: 20px; font-variant-numeric: tabular-nums }
main { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 14px }
svg { width: 100%; height: auto; display: block } svg text { fill: var(--soft); font-size: 12px }
.grid { stroke: var(--line) } polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round }
polyline.first { stroke: var(--first) } polyline.second { stroke: var(--second); stroke-dasharray: 5 4 }
circle.first { fill: var(--first) } circle.second { fill: var(--second) }
.key { color: var(--soft); font-size: 13px } .key i { display: inline-block; width: 18px; border-top: 2px solid;
  vertical-align: middle; margin: 0 5px 0 12px } .key .first { border-color: var(--first) }
.key .second { border-color: var(--second); border-top-style: dashed }
details { margin-top: 14px } pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 12px; padding: 12px 16px; font-size: 13px } html[lang=en] .ko, html[lang=ko] .en { display: none }
"""

SCRIPT = """document.querySelector('button').onclick = () => {
  const root = document.documentElement; root.lang = root.lang === 'ko' ? 'en' : 'ko' }"""


@dataclass(frozen=True)
class Run:
    """What the files of a run folder say; pieces that are missing are empty."""

    name: str
    rows: list[dict[str, Any]]
    recipe: str
    environment: dict[str, Any]

    def series(self, key: str) -> list[tuple[float, float]]:
        return [(float(row["step"]), float(row[key])) for row in self.rows if key in row]


def write_report(folder: RunFolder) -> None:
    """Make `report.html` anew from the run folder's other files."""
    environment = json.loads(_text(folder.environment) or "{}")
    run = Run(folder.path.name, read_metrics(folder.metrics), _text(folder.config), environment)
    write_text(folder.report, page(run))


def page(run: Run) -> str:
    language = "ko" if os.environ.get("HANBIT_LANG", "en").startswith("ko") else "en"
    environment = html.escape(json.dumps(run.environment, indent=2))
    return f"""<!doctype html>
<html lang="{language}"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{html.escape(run.name)} · hanbit</title><style>{STYLE}</style></head><body>
<header><h1>{html.escape(run.name)}</h1><button>한국어 / English</button></header>
<dl>{"".join(_fact(key, value) for key, value in facts(run).items())}</dl>
<main>{_loss_card(run)}{_card("learning_rate", run)}{_card("grad_norm", run)}
{_card("speed", run, "tokens_per_second")}</main>
<p class="key">{_both("x_axis")}</p>
<details><summary>{_both("recipe")}</summary><pre>{html.escape(run.recipe)}</pre></details>
<details><summary>{_both("environment")}</summary><pre>{environment}</pre></details>
<script>{SCRIPT}</script></body></html>
"""


def facts(run: Run) -> dict[str, str]:
    """The numbers on top, by their word; a run without steps has none but its processes."""
    found: dict[str, str] = {}
    steps = [row for row in run.rows if "loss" in row]
    if steps:
        found["steps"] = str(steps[-1]["step"])
        found["tokens"] = readable_count(steps[-1]["tokens"])
        found["last_loss"] = f"{steps[-1]['loss']:.4f}"
    validation = run.series("validation_loss")
    if validation:
        found["last_validation"] = f"{validation[-1][1]:.4f}"
    if steps:
        found["median_speed"] = readable_count(statistics.median(row["tokens_per_second"] for row in steps))
        found["time"] = readable_seconds(sum(row["step_seconds"] for row in steps))
    if "processes" in run.environment:
        grid = run.environment.get("grid", {})
        shape = " × ".join(f"{size} {axis}" for axis, size in grid.items() if size > 1)
        found["processes"] = f"{run.environment['processes']}{f' ({shape})' if shape else ''}"
    return found


def _fact(key: str, value: str) -> str:
    return f"<div><dt>{_both(key)}</dt><dd>{html.escape(value)}</dd></div>"


def _loss_card(run: Run) -> str:
    lines = [Line("loss", run.series("loss")), Line("validation", run.series("validation_loss"), "second")]
    key = f'<p class="key"><i class="first"></i>{_both("training")}<i class="second"></i>{_both("validation")}</p>'
    return f"<section><h2>{_both('loss')}</h2>{chart(lines)}{key}</section>"


def _card(word: str, run: Run, series: str | None = None) -> str:
    return f"<section><h2>{_both(word)}</h2>{chart([Line(word, run.series(series or word))])}</section>"


def _both(word: str) -> str:
    english, korean = WORDS[word]
    return f'<span class="en">{english}</span><span class="ko">{korean}</span>'


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
