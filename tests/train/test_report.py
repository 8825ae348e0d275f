"""The report as a reader of HTML sees it: one file, every number, nothing from outside, nothing executed."""

import base64
import hashlib
import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hanbit.common.run_folder import RunFolder
from hanbit.train.report import write_report

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"
ENVIRONMENT = {"device": "cpu", "cores": 2, "torch": "2.13.0", "processes": 4,
               "grid": {"pipeline": 2, "data": 1, "tensor": 2}}  # fmt: skip


def steps(count: int) -> list[dict[str, Any]]:
    return [
        {"step": i, "loss": 2 + 8 / i, "learning_rate": 1e-3 * i / count, "grad_norm": 1.0 + 30 * (i == 7),
         "tokens": 8192 * i, "step_seconds": 0.5, "tokens_per_second": 15000.0 + 10 * i}
        for i in range(1, count + 1)
    ]  # fmt: skip


def validations(*pairs: tuple[int, float]) -> list[dict[str, Any]]:
    return [{"step": step, "validation_loss": loss} for step, loss in pairs]


def made(folder: Path, rows: list[Any], name: str = "run", recipe: str = "name: run\n") -> str:
    run = RunFolder(folder / name)
    run.path.mkdir()
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.config.write_text(recipe)
    run.environment.write_text(json.dumps(ENVIRONMENT))
    write_report(run)
    return run.report.read_text()


class Reader(HTMLParser):
    """Elements as (tag, attributes), and what each tag's elements say, nested texts included."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, dict[str, str], list[str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        self.tags.append((tag, attributes))
        if tag not in ("meta", "img"):
            self._open.append((tag, attributes, []))
            self.texts.append(self._open[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        for _, _, said in self._open:
            said.append(data)

    def said(self, tag: str, **attributes: str) -> list[str]:
        wanted = attributes.items()
        return ["".join(said) for name, found, said in self.texts if name == tag and wanted <= found.items()]


def charts(text: str) -> list[Reader]:
    """Loss, learning rate, gradient norm, tokens per second, as far as they are drawn."""
    return [Reader(svg) for svg in re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)]


def readings(chart: Reader) -> list[list[str]]:
    """Of every point: step, tokens, value (the first word of each part of its title)."""
    return [[part.split()[0] for part in title.split(" · ")] for title in chart.said("title")]


def seen_heights(chart: Reader) -> list[float]:
    """The values as someone reads them off the picture: from the heights of the first line and two tick labels."""
    labels = [(float(a["y"]) - 4, float("".join(said).replace(",", ""))) for t, a, said in chart.texts
              if t == "text" and a["class"] == "y"]  # fmt: skip
    (y_low, low), (y_high, high) = labels[0], labels[-1]
    line = next(a["points"] for tag, a in chart.tags if tag == "polyline")
    heights = [float(point.split(",")[1]) for point in line.split()]
    return [low + (y - y_low) / (y_high - y_low) * (high - low) for y in heights]


def test_top_of_the_page_has_the_last_numbers_and_the_hardware(tmp_path: Path) -> None:
    rows = steps(50)
    reader = Reader(made(tmp_path, [*rows, *validations((25, 5.0), (50, 4.25))]))
    assert reader.said("h1") == ["run"]
    last_loss = f"{2 + 8 / 50:.4f}"
    speed = statistics.median(15000 + 10 * i for i in range(1, 51))
    assert reader.said("dd") == ["50", "410K", last_loss, "4.2500", f"{speed / 1000:.1f}K", "25 s25초"]
    machine = "".join(reader.said("header"))
    for words in ("4 processes", "(2 pipeline × 2 tensor)", "cpu", "2 cores", "torch 2.13.0"):
        assert words in machine


def test_every_step_is_a_point_that_tells_its_step_tokens_and_value(tmp_path: Path) -> None:
    rows = steps(50)
    loss, rate, norm, speed = charts(made(tmp_path, [*rows, *validations((25, 5.0), (50, 4.25))]))
    assert [len(readings(chart)) for chart in (loss, rate, norm, speed)] == [52, 50, 50, 50]
    for row, (step, tokens, value) in zip(rows, readings(loss), strict=False):
        assert int(step) == row["step"]
        assert float(tokens.removesuffix("K")) * 1000 == pytest.approx(row["tokens"], rel=5e-3)
        assert float(value) == pytest.approx(row["loss"], rel=1e-4)
    assert readings(loss)[50:] == [["25", "205K", "5"], ["50", "410K", "4.25"]]
    assert readings(norm)[6][2] == "31"


def test_points_lie_where_their_values_are_on_the_axis(tmp_path: Path) -> None:
    rows = steps(50)
    loss, rate, _, _ = charts(made(tmp_path, rows))
    assert seen_heights(loss) == pytest.approx([row["loss"] for row in rows], abs=0.01)
    assert seen_heights(rate) == pytest.approx([row["learning_rate"] for row in rows], abs=2e-6)


def test_both_lines_of_the_loss_have_their_labels(tmp_path: Path) -> None:
    with_both = Reader(made(tmp_path, [*steps(9), *validations((9, 4.25))], "both"))
    assert with_both.said("p", **{"class": "key"})[0] == f"training학습{2 + 8 / 9:.5g}validation검증4.25"
    alone = Reader(made(tmp_path, steps(9), "alone"))
    assert alone.said("p", **{"class": "key"})[0] == f"training학습{2 + 8 / 9:.5g}"


def test_page_is_alone_and_runs_nothing_that_a_file_said(tmp_path: Path) -> None:
    name = HOSTILE.replace("/", "∕")  # a file name holds no slash
    rows = [*steps(3), {"step": HOSTILE, "loss": 1.0}, {"step": 4, "loss": HOSTILE}, HOSTILE, [HOSTILE]]
    environment = {"device": HOSTILE, "processes": HOSTILE, "grid": {HOSTILE: HOSTILE}, "cores": HOSTILE}
    run = RunFolder(tmp_path / name)
    made(tmp_path, rows, name, recipe=f"name: {HOSTILE}\n")
    run.environment.write_text(json.dumps(environment))
    write_report(run)
    text = run.report.read_text()
    reader = Reader(text)
    assert reader.said("h1") == [name]
    assert reader.said("title")[0] == f"{name} · hanbit"
    assert f"name: {HOSTILE}\n" in reader.said("pre")
    assert sum(tag == "script" for tag, _ in reader.tags) == 1
    assert not [tag for tag, _ in reader.tags if tag in ("img", "link", "iframe", "object", "a")]
    assert not {key for _, attributes in reader.tags for key in attributes if key.startswith(("on", "src", "href"))}
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)


def test_policy_of_the_page_allows_its_own_script_alone(tmp_path: Path) -> None:
    reader = Reader(made(tmp_path, steps(3)))
    digest = base64.b64encode(hashlib.sha256(reader.said("script")[0].encode()).digest()).decode()
    policy = next(a["content"] for tag, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def test_both_languages_are_in_the_file_and_the_environment_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANBIT_LANG", "ko")
    reader = Reader(made(tmp_path, steps(3)))
    assert ("html", {"lang": "ko"}) in reader.tags
    english, korean = (reader.said("span", **{"class": language}) for language in ("en", "ko"))
    assert {"Loss", "Learning rate", "Gradient norm", "Tokens per second"} <= set(english)
    assert {"손실", "학습률", "기울기 노름", "초당 토큰"} <= set(korean)
    assert len(english) == len(korean)
    monkeypatch.delenv("HANBIT_LANG")
    assert ("html", {"lang": "en"}) in Reader(made(tmp_path, steps(3), "english")).tags


def test_hundred_thousand_steps_stay_under_half_a_megabyte_and_keep_spike_and_ends(tmp_path: Path) -> None:
    rows = steps(100_000)
    rows[43_210]["loss"] = 99.0
    text = made(tmp_path, [*rows, *validations(*((step, 5.0) for step in range(100, 100_001, 100)))])
    assert len(text.encode()) < 500_000
    said = readings(charts(text)[0])
    assert said[0] == ["1", "8.19K", "10"]
    assert ["43,211", "354M", "99"] in said
    assert ["100,000", "819M", f"{2 + 8 / 100_000:.5g}"] in said


def test_fall_of_the_first_steps_does_not_flatten_the_rest_of_a_long_run(tmp_path: Path) -> None:
    rows = steps(2000)
    rows[1000]["loss"] = 2.9  # a spike later on is shown in full
    loss = charts(made(tmp_path, rows))[0]
    assert loss.said("text", **{"class": "above"}) == ["↑ 10"]
    spike = [reading[2] for reading in readings(loss)].index("2.9")
    heights = seen_heights(loss)
    assert heights[spike] == pytest.approx(2.9, abs=0.01)
    assert heights[0] == max(heights) == pytest.approx(3.0, abs=0.01), "the first steps lie on the upper edge"
    assert readings(loss)[0][2] == "10", "and say what they were"


@pytest.mark.parametrize("missing", ["validation", "config", "env", "all"])
def test_pieces_that_are_missing_are_left_out(tmp_path: Path, missing: str) -> None:
    run = RunFolder(tmp_path / "run")
    made(tmp_path, steps(5) + ([] if missing == "validation" else validations((5, 4.0))))
    for name, path in (("config", run.config), ("env", run.environment), ("all", run.metrics)):
        if missing in (name, "all"):
            path.unlink()
    write_report(run)
    reader = Reader(run.report.read_text())
    assert len(reader.said("dd")) == {"validation": 5, "all": 0}.get(missing, 6)
    assert len(reader.said("details")) == {"config": 1, "env": 1, "all": 0}.get(missing, 2)
    assert len(reader.said("p", **{"class": "nothing"})) == (4 if missing == "all" else 0)


def test_one_step_is_drawn_as_a_dot(tmp_path: Path) -> None:
    loss, *others = charts(made(tmp_path, steps(1)))
    assert len(others) == 3
    assert readings(loss) == [["1", "8.19K", "10"]]
    assert ("g", {"class": "first lone"}) in loss.tags


def test_values_that_are_no_numbers_are_left_out_of_the_line(tmp_path: Path) -> None:
    rows = steps(6)
    for row, value in zip(rows[1:5], (float("nan"), float("inf"), None, 10**400), strict=True):
        row["loss"] = value
    loss = charts(made(tmp_path, rows))[0]
    assert [step for step, _, _ in readings(loss)] == ["1", "6"]


def test_log_axis_puts_equal_ratios_equally_far_apart(tmp_path: Path) -> None:
    rows = steps(3)
    for row, norm in zip(rows, (1.0, 10.0, 100.0), strict=True):
        row["grad_norm"] = norm
    norms = charts(made(tmp_path, rows))[2]
    line = next(attributes["points"] for tag, attributes in norms.tags if tag == "polyline")
    first, second, third = (float(point.split(",")[1]) for point in line.split())
    assert first - second == pytest.approx(second - third, abs=0.11)  # places are written to 0.1
    assert first - second > 50


@pytest.fixture
def chromium(tmp_path: Path) -> Callable[[str], str]:
    """The page's elements after its scripts have run."""
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("no chromium on this machine")

    def dumped(text: str) -> str:
        page = tmp_path / "page.html"
        page.write_text(text)
        switches = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync --dump-dom"
        quiet = "--disable-background-networking --disable-component-update"
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [program, *switches.split(), *quiet.split(), profile, page.as_uri()]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout

    return dumped


@pytest.mark.slow
def test_pointer_reads_the_same_step_in_every_chart(tmp_path: Path, chromium: Callable[[str], str]) -> None:
    text = made(tmp_path, [*steps(50), *validations((25, 5.0), (50, 4.25))])
    probe = """<script>const svg = document.querySelector('svg'), box = svg.getBoundingClientRect()
      const circle = document.querySelectorAll('circle')[19], scale = box.width / svg.viewBox.baseVal.width
      svg.dispatchEvent(new PointerEvent('pointermove', { clientX: box.left + circle.getAttribute('cx') * scale }))
      document.querySelector('button').click()</script></body>"""
    opened = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</body>", probe)
    reader = Reader(chromium(opened))
    assert reader.said("span", **{"class": "step"}) == ["20"] * 4
    assert reader.said("output") == ["2.4", "5", "0.0004", "1", "15.2K"]
    assert reader.said("small")[1] == "@ 25"
    assert ("html", {"lang": "ko"}) in reader.tags


@pytest.mark.slow
def test_browser_refuses_a_script_that_is_not_the_page_s_own(tmp_path: Path, chromium: Callable[[str], str]) -> None:
    foreign = "<script>document.title = 'ran'</script><img src=x onerror=\"document.title = 'ran'\"></body>"
    text = made(tmp_path, steps(3)).replace("</body>", foreign)
    reader = Reader(chromium(text))
    assert reader.said("title") == ["run · hanbit"], "our own script ran and took the points' titles, no other did"


PARTS = {"forward_backward": 0.2, "communication": 0.1, "pipeline_idle": 0.05, "optimizer": 0.1, "data": 0.0}


def test_one_bar_shows_where_the_time_of_the_steps_went(tmp_path: Path) -> None:
    seconds = {f"{phase}_seconds": value for phase, value in PARTS.items()}
    text = made(tmp_path, [{**row, **seconds} for row in steps(4)])
    said = "".join(Reader(text).said("p", **{"class": "phases"}))
    assert re.findall(r"[\d.]+%", said) == ["40.0%", "20.0%", "10.0%", "20.0%", "10.0%"]  # the last is "other"
    widths = [float(width) for width in re.findall(r"flex-grow:([\d.]+)", text)]
    assert widths == pytest.approx([0.4, 0.2, 0.1, 0.2, 0.1])
    assert 'class="bar"' not in made(tmp_path, steps(4), "without")


def test_mfu_and_memory_have_a_card_where_they_are_known(tmp_path: Path) -> None:
    rows = [{**row, "mfu": 0.4, "model_flops_per_second": 4e14, "peak_memory_bytes": 3.2e9} for row in steps(4)]
    text = made(tmp_path, rows)
    assert [readings(chart)[0][2] for chart in charts(text)[4:]] == ["40", "3.2"]
    assert "40.0%" in Reader(text).said("dd")
    assert "3.2 GB" in Reader(text).said("dd")
    unknown = made(tmp_path, [{**row, "mfu": None} for row in rows], "unknown")
    assert readings(charts(unknown)[4])[0][2] == "400T"


def test_a_run_that_goes_on_tells_what_is_left(tmp_path: Path) -> None:
    rows = [{**row, "time_left_seconds": 90.0 * (4 - row["step"])} for row in steps(4)]
    assert Reader(made(tmp_path, rows[:2], "going")).said("dd")[-1] == "3 min 00 s3분 00초"
    assert "time left" not in made(tmp_path, rows, "finished")


def test_a_row_without_a_time_of_its_own_is_no_part_of_the_bar(tmp_path: Path) -> None:
    hostile = [{**steps(1)[0], "data_seconds": HOSTILE}, {**steps(1)[0], "step_seconds": 0}]
    assert 'class="bar"' not in made(tmp_path, hostile)
