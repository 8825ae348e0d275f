"""The report as a reader of HTML sees it: one file, every number, nothing from outside, nothing executed."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from hanbit.common.run_folder import RunFolder
from hanbit.train.chart import MOST_POINTS, thinned
from hanbit.train.report import write_report


def made(folder: Path, steps: int = 50, name: str = "run") -> str:
    run = RunFolder(folder / name)
    run.path.mkdir()
    rows = [
        {"step": i, "loss": 10 / i, "learning_rate": 1e-3, "grad_norm": 1.0, "tokens": 100 * i, "step_seconds": 0.5,
         "tokens_per_second": 200.0}
        for i in range(1, steps + 1)
    ]  # fmt: skip
    if steps:
        rows.append({"step": steps, "validation_loss": 4.25})
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.config.write_text("name: <script>alert(1)</script>\n")
    run.environment.write_text(json.dumps({"processes": 4, "grid": {"pipeline": 2, "data": 1, "tensor": 2}}))
    write_report(run)
    return run.report.read_text()


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


def test_page_shows_the_last_numbers_and_a_point_for_every_step(tmp_path: Path) -> None:
    reader = read(made(tmp_path))
    for value in ("50", "5K", "0.2000", "4.2500", "200", "25 s", "4 (2 pipeline × 2 tensor)"):
        assert value in reader.said, value
    lines = [attributes["points"] for tag, attributes in reader.tags if tag == "polyline"]
    assert [len((points or "").split()) for points in lines] == [50, 1, 50, 50, 50]
    heights = [float(point.split(",")[1]) for point in (lines[0] or "").split()]
    assert heights == sorted(heights), "a falling loss goes down the page"


def test_page_is_alone_and_runs_nothing_that_a_file_said(tmp_path: Path) -> None:
    text = made(tmp_path, name="<img src=x onerror=alert(1)>")
    reader = read(text)
    assert sum(tag == "script" for tag, _ in reader.tags) == 1
    assert not [tag for tag, _ in reader.tags if tag in ("img", "link", "iframe")]
    assert not re.search(r"https?://", text)


def test_both_languages_are_in_the_file(tmp_path: Path) -> None:
    said = read(made(tmp_path)).said
    assert "손실" in said
    assert "Loss" in said


def test_long_runs_stay_small_and_keep_their_spikes(tmp_path: Path) -> None:
    assert len(made(tmp_path, steps=20_000)) < 500_000
    points = [(float(x), 1.0) for x in range(10_000)]
    points[4321] = (4321.0, 99.0)
    assert len(thinned(points)) <= MOST_POINTS
    assert (4321.0, 99.0) in thinned(points)


def test_run_that_was_killed_before_its_first_step_has_a_page(tmp_path: Path) -> None:
    assert "–" in read(made(tmp_path, steps=0)).said
