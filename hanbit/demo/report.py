"""The journey's page: its run's training report, and below the curves what was answered and what each command did."""

import html
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hanbit.common.errors import RunFolderError
from hanbit.common.manifest import renew_manifest
from hanbit.common.run_folder import RunFolder
from hanbit.common.units import readable_seconds
from hanbit.demo.stage import Outcome
from hanbit.train.report import write_report

Both = tuple[str, str]  # English, Korean


@dataclass(frozen=True)
class Answers:
    """To one prompt: of the model as it came, and of the same model with the adapter."""

    prompt: str
    before: str
    after: str


def write_demo_report(run: Path, outcomes: Sequence[Outcome], answers: Sequence[Answers]) -> Path:
    """`run`: the training run's folder, whose report.html is made anew. Raises RunFolderError if it is not finished."""
    folder = RunFolder(run)
    write_report(folder, _answers(answers) + _commands(outcomes))
    renew_manifest(run, "run", RunFolderError)
    return folder.report


def _answers(answers: Sequence[Answers]) -> str:
    heads = (
        ("prompt, not in the training data", "질문, 학습 자료에 없음"),
        ("before", "조정 전"),
        ("after", "조정 후"),
    )
    rows = ((html.escape(one.prompt), html.escape(one.before), html.escape(one.after)) for one in answers)
    return _table(("Answers before and after tuning", "미세 조정 전후의 답"), heads, rows)


def _commands(outcomes: Sequence[Outcome]) -> str:
    heads = (("what", "무엇을"), ("how long", "얼마나 오래"), ("how good", "얼마나 잘"))
    return _table(("The journey", "전체 과정"), heads, map(_row, outcomes))


def _row(outcome: Outcome) -> tuple[str, str, str]:
    title = _both((outcome.stage.english, outcome.stage.korean))
    command = html.escape(shlex.join(outcome.stage.command))
    good = html.escape(outcome.answer or outcome.good)
    return f"{title}<br><code>{command}</code>", readable_seconds(outcome.seconds), good


def _table(title: Both, heads: Iterable[Both], rows: Iterable[Iterable[str]]) -> str:
    """Cells are HTML."""
    top = "".join(f"<th>{_both(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<section class="card wide"><h2>{_both(title)}</h2><table><tr>{top}</tr>{body}</table></section>'


def _both(words: Both) -> str:
    english, korean = map(html.escape, words)
    return f'<span class="en">{english}</span><span class="ko">{korean}</span>'
