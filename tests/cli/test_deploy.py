"""The verb `deploy`: models by folder, by a hub's name, and out of an installed package; what they answer is theirs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hanbit.cli.main import run
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.repository.config import parameter, read_config
from tests.convert.gguf_models import write_gguf
from tests.engine.folders import HUB_COMMIT, write_folder, write_hub_cache

GREEDY = SamplingParams(temperature=0, max_tokens=8)


def model_of(repository: Path) -> Path:
    """The folder that the deployed model `m` names."""
    return Path(parameter(read_config(repository / "m_model"), "model_folder"))


def deploy_hub_name(name: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client looks at the environment once."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    command = [sys.executable, "-m", "hanbit", "deploy", name, "m", "--model-repository", str(tmp_path / "models")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_a_hub_name_is_deployed_from_the_cache(tmp_path: Path) -> None:
    write_folder(tmp_path / "model", "llama")
    write_hub_cache(tmp_path / "home/hub", "some/tiny", tmp_path / "model")
    assert deploy_hub_name("some/tiny", tmp_path).returncode == 0
    found = model_of(tmp_path / "models")
    assert found.name == HUB_COMMIT
    assert LLM(found).generate(["The"], GREEDY) == LLM(tmp_path / "model").generate(["The"], GREEDY)


def test_a_hub_name_that_is_not_there_says_so(tmp_path: Path) -> None:
    done = deploy_hub_name("some/missing", tmp_path)
    assert done.returncode == 1
    assert "some/missing is no file or folder here, not in the hub's cache" in done.stderr
    assert not (tmp_path / "models").exists()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An installed distribution with one small GGUF file in it."""
    site = tmp_path / "site"
    (site / "tiny_model").mkdir(parents=True)
    write_gguf(site / "tiny_model/tiny.gguf")
    information = site / "tiny_model-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
    (information / "RECORD").write_text("tiny_model/tiny.gguf,,\n")
    monkeypatch.syspath_prepend(site)
    return "package:tiny-model"


def test_a_packaged_file_is_converted_once_into_the_home_and_deployed(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HANBIT_HOME", str(tmp_path / "home"))
    arguments = ["deploy", package, "m", "--model-repository", str(tmp_path / "models")]
    assert run(arguments) == 0
    made = tmp_path / "home/models/tiny-model"
    assert f"{package} is {made}, made in" in capsys.readouterr().out
    assert model_of(tmp_path / "models") == made
    written = (made / "model.safetensors").stat().st_mtime_ns
    assert run(arguments) == 0
    assert f"{package} is {made}\n" in capsys.readouterr().out
    assert (made / "model.safetensors").stat().st_mtime_ns == written


def test_a_package_that_is_not_installed_is_one_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["deploy", "package:no-such-thing", "m", "--model-repository", str(tmp_path / "models")]) == 1
    assert "package 'no-such-thing' is not installed" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
