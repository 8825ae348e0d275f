import importlib.metadata
import json
import os
from pathlib import Path

import pytest

from hanbit.cli import doctor
from hanbit.common.capability import Processor


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


def test_versions_that_are_not_tested_come_with_their_pip_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("# numpy==1.0\ntorch==2.13.0\nnumpy==2.4.6\nrich==15.0.0\n")
    monkeypatch.setattr(doctor, "CONSTRAINTS", constraints)
    found = {"torch": "2.13.0+cpu", "numpy": "2.4.5", "rich": "15.0.0"}
    monkeypatch.setattr(doctor, "_version", lambda name: found.get(name, "1"))
    wanted = f"numpy is 2.4.5, tested with 2.4.6: pip install -c {constraints} numpy==2.4.6"
    assert [line for line in doctor.advice() if "tested" in line] == [wanted]


def test_every_package_that_hanbit_needs_has_a_tested_version() -> None:
    assert set(doctor.NEEDED) | set(doctor.EXTRAS) <= set(doctor.tested_versions())


def test_precisions_of_a_card_are_told_with_what_it_lacks() -> None:
    assert doctor.computes(Processor("Tesla T4", (7, 5))) == (
        "Tesla T4 (sm75): fp32, fp16, no bf16, no fp8, no FlashAttention 2; auto is fp16: it has no bf16"
    )
    assert doctor.computes(Processor("CPU")).startswith("CPU: fp32, fp16, bf16, no fp8; auto is fp32: it ")
