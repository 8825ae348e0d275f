import importlib.metadata
import json
import os

import pytest

from hanbit.cli import doctor


def test_doctor_tells_what_this_machine_is(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.command(as_json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["machine"]["cores"] == len(os.sched_getaffinity(0))
    assert facts["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert "gloo" in facts["torch"]["process groups"]


def test_missing_packages_come_with_their_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("pyarrow", "tensorboard") else "1")
    assert doctor.advice()[0] == "pyarrow is missing: pip install hanbit"
    assert 'pip install "hanbit[tensorboard]"' in doctor.advice()[1]
