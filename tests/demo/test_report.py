"""The journey's page: what models and commands said stands there as text, in both languages."""

import json
from pathlib import Path

from hanbit.common.errors import RunFolderError
from hanbit.common.manifest import read_manifest, verify, write_manifest
from hanbit.demo import stages
from hanbit.demo.report import write_demo_report
from hanbit.demo.stage import Outcome, Stage


def evaluated() -> str:
    """As `hanbit evaluate --json` prints it."""

    def answered(text: str, has_shape: bool) -> dict[str, object]:
        question = {"prompt": "What is <b>?", "expected": "b"}
        return {"question": question, "text": text, "has_shape": has_shape, "is_right": True}

    before, after = answered("<script>alert(1)</script>", False), answered('{"answer": "b"}', True)
    return json.dumps({"before": [before], "after": [after]})


def test_the_evaluation_is_told_in_few_words() -> None:
    assert stages.shaped(evaluated()) == "answers in JSON: 0 -> 1 of 1"
    assert [one.after for one in stages.compared(evaluated())] == ['{"answer": "b"}']


def test_the_page_holds_answers_and_commands_as_text_and_the_manifest_fits(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("of the training alone")
    write_manifest(tmp_path, "run", ["report.html"], is_finished=True)
    stage = Stage("let it <speak>", "말하게 하기", ("hanbit", "generate", "a b"))
    page = write_demo_report(tmp_path, [Outcome(stage, 2.0, "good", "1 < 2")], stages.compared(evaluated()))
    text = page.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    for said in ("&lt;script&gt;alert(1)&lt;/script&gt;", "{&quot;answer&quot;: &quot;b&quot;}", "let it &lt;speak&gt;",
                 "말하게 하기", "hanbit generate &#x27;a b&#x27;", "1 &lt; 2", "What is &lt;b&gt;?"):  # fmt: skip
        assert said in text
    manifest = read_manifest(tmp_path, "run", RunFolderError)
    assert manifest["is_finished"]
    verify(tmp_path, manifest, RunFolderError)
