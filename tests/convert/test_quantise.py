"""`convert --quantize`: blocks that are the folder's own float tensors, one model on both paths, honest numbers."""

import json
import math
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import typer
from gguf.constants import GGMLQuantizationType
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hanbit import LLM, convert
from hanbit.checkpoint.model_folder import load_model, read_tensors, save_model
from hanbit.checkpoint.model_weights import shapes_of
from hanbit.checkpoint.rounded_blocks import blocks_of
from hanbit.cli.convert import command
from hanbit.common.errors import ConfigError, DataError, FormatError, ModelError
from hanbit.config.model import BloomConfig, ExaoneConfig, GemmaConfig, ModelConfig, NeoXConfig, OPTConfig, Phi3Config
from hanbit.convert import quantised_origin
from hanbit.convert.calibration import calibration_sources, calibration_tokens
from hanbit.convert.perplexity import perplexities, windows_of
from hanbit.engine.as_stored import load_as_stored
from hanbit.engine.fuse import fuse
from hanbit.engine.native import BlockLinear, NativeEmbedding, NativeLinear
from hanbit.formats.gguf.blocks import FILE, Blocks, read_blocks
from hanbit.kernels.library import native, why_not
from hanbit.models.layers.decoder import Decoder
from hanbit.quantize.groups import Rounded, Scheme, rounded
from hanbit.tokenizers.load import load
from tests.checkpoint.model_folders import GPT, change_weights, foreign_folder, numbers
from tests.convert.gguf_models import write_gguf
from tests.engine.feeding import Rows
from tests.engine.folders import theirs_of, write_tokenizer

needs_native = pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")
TEXT = "The quick brown fox jumps over the lazy dog. 대한민국은 민주공화국이다. " * 40
SHAPE = {"layers": 2, "hidden": 64, "heads": 4, "inner": 96, "vocabulary": 403, "context": 64}
FAMILIES: dict[str, ModelConfig] = {
    "gemma": GemmaConfig(family="gemma", key_value_heads=2, head_dim=16, **SHAPE),
    "exaone": ExaoneConfig(family="exaone", key_value_heads=2, head_dim=16, tied=False, **SHAPE),
    "opt": OPTConfig(family="opt", **SHAPE),
    "bloom": BloomConfig(family="bloom", **{**SHAPE, "inner": 256}),  # query, key and value are one, head by head
    "neox": NeoXConfig(family="neox", **SHAPE),  # so are they here
    "phi3": Phi3Config(family="phi3", key_value_heads=2, head_dim=16, tied=False, **SHAPE),  # one after the other
}
JOINED = {
    "bloom": {"transformer.h.1.self_attention.query_key_value.weight": ("query", "key", "value")},
    "neox": {"gpt_neox.layers.1.attention.query_key_value.weight": ("query", "key", "value")},
    "phi3": {
        "model.layers.1.self_attn.qkv_proj.weight": ("query", "key", "value"),
        "model.layers.1.mlp.gate_up_proj.weight": ("gate", "up"),
    },
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder of plain numbers, rows of 64 and 96."""
    path = tmp_path_factory.mktemp("source")
    convert(write_gguf(path / "a.gguf", type="F32", embedding="F32"), path / "model", proof=False)
    (path / "text.txt").write_text(TEXT)
    return path / "model"


def text_of(source: Path) -> Path:
    return source.parent / "text.txt"


@pytest.mark.parametrize(
    ("choice", "symmetric", "type"), [("int4", False, "Q4_1"), ("int4", True, "Q4_0"), ("int8", False, "Q8_0")]
)
def test_blocks_are_the_float_tensors_and_nearest_to_the_sources(
    choice: str, symmetric: bool, type: str, source: Path, tmp_path: Path
) -> None:
    made = convert(source, tmp_path / "out", quantize=choice, symmetric=symmetric, text=text_of(source))
    assert made.dtype == "float32"
    before, after = (load_file(folder / "model.safetensors") for folder in (source, tmp_path / "out"))
    blocks = read_blocks(tmp_path / "out")
    assert set(blocks) == {name for name, tensor in before.items() if tensor.dim() == 2}
    for name, tensor in after.items():
        if name not in blocks:
            assert torch.equal(tensor, before[name])
            continue
        kind = GGMLQuantizationType[blocks[name].type]
        assert blocks[name].type == ("Q8_0" if "embed" in name else type)
        assert np.array_equal(gguf.dequantize(blocks[name].data.numpy(), kind), tensor.numpy())
        plain = gguf.dequantize(gguf.quantize(before[name].numpy(), kind), kind)
        assert (tensor - before[name]).norm() <= (torch.from_numpy(plain) - before[name]).norm() * (1 + 1e-6)
    proof = json.loads((tmp_path / "out/hanbit.json").read_text())["proof"]
    assert proof == made.proof
    assert proof["in_blocks"] == 15


@needs_native
def test_the_engine_computes_the_same_model_with_blocks_and_without(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", quantize="int8", proof=False)
    assert_alike(tmp_path / "out")


@needs_native
@pytest.mark.parametrize("family", FAMILIES)
def test_other_families_do_so_too(family: str, tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "source", FAMILIES[family])
    made = convert(folder, tmp_path / "out", quantize="int8")
    assert made.proof is not None
    assert made.proof["perplexity_before"] == {}, "there is no tokenizer"
    assert_alike(tmp_path / "out")


@needs_native
@pytest.mark.parametrize("family", JOINED)
@pytest.mark.parametrize(("choice", "type"), [("int4", "Q4_1"), ("int8", "Q8_0")])
def test_matrices_that_a_file_has_in_one_keep_their_own_blocks_in_it(
    family: str, choice: str, type: str, tmp_path: Path
) -> None:
    """The file's matrix is the one of its blocks, and what the engine multiplies are its rows, in every bit."""
    folder = foreign_folder(tmp_path / "source", FAMILIES[family])
    made = convert(folder, tmp_path / "out", quantize=choice)
    assert made.proof is not None
    assert made.proof["in_blocks"] == {"bloom": 13, "neox": 14, "phi3": 16}[family]
    blocks, weights = read_blocks(tmp_path / "out"), load_file(tmp_path / "out/model.safetensors")
    assert {one for one, tensor in weights.items() if tensor.dim() == 2} == set(blocks)
    model, floats = load_as_stored(tmp_path / "out", True), read_tensors(tmp_path / "out")
    layer = model.layers["1"]
    for stored, names in JOINED[family].items():
        assert blocks[stored].type == type
        assert torch.equal(blocks[stored].numbers(), weights[stored])
        for name in names:
            place = "mlp" if name in ("gate", "up") else "attention"
            linear = layer.get_submodule(f"{place}.{name}")
            assert isinstance(linear, BlockLinear)
            wanted = floats[f"layers.1.{place}.{name}.weight"]
            assert torch.equal(NativeEmbedding(NativeLinear(linear))(torch.arange(len(wanted))), wanted)


def assert_alike(folder: Path) -> None:
    """Apart from the inputs of products, which the kernels round to int8."""
    tokens = torch.randint(300, (24,), generator=torch.Generator().manual_seed(3)).tolist()
    exact, blocks = Rows(fuse(load_model(folder)), 1, 32), Rows(fuse(load_as_stored(folder, True)), 1, 32)
    wanted, found = (rows.prefill(0, tokens, 0, 24) for rows in (exact, blocks))
    assert wanted is not None
    assert found is not None
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


def test_groups_share_a_scale_over_their_blocks(source: Path, tmp_path: Path) -> None:
    config = load_model(source).config.model_copy(update={"inner": 128})
    folder = foreign_folder(tmp_path / "source", config)
    convert(folder, tmp_path / "out", quantize="int4", group=64, proof=False)
    block = read_blocks(tmp_path / "out")["model.layers.0.mlp.down_proj.weight"]
    scales = block.data.view(64, 4, 20)[..., :4]  # and least numbers
    assert torch.equal(scales[:, 0::2], scales[:, 1::2])
    assert not torch.equal(scales[:, 0], scales[:, 2])
    wanted = rounded(
        load_file(folder / "model.safetensors")["model.layers.0.mlp.down_proj.weight"],
        Scheme(4, 64, is_symmetric=False),
    )
    assert torch.equal(block.numbers(), wanted.numbers())


def test_perplexity_is_that_of_a_plain_loop_over_transformers(source: Path, tmp_path: Path) -> None:
    made = convert(source, tmp_path / "out", quantize="int4", text=text_of(source))
    assert made.proof is not None
    tokens = load(source).encode(TEXT)
    length = 128  # the context
    for folder, told in ((source, made.proof["perplexity_before"]), (tmp_path / "out", made.proof["perplexity_after"])):
        model, losses = theirs_of(folder), []
        for start in range(0, min(len(tokens) // length, 8) * length, length):
            window = torch.tensor(tokens[start : start + length])
            with torch.no_grad():
                chances = model(window[None]).logits[0].log_softmax(-1)
            losses += [-float(chances[place, window[place + 1]]) for place in range(length // 2, length - 1)]
        assert told == {"text.txt": pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-4)}


def test_texts_of_the_package_are_english_and_korean_and_long_enough(source: Path) -> None:
    windows = windows_of(load(source), None, 128)
    assert list(windows) == ["english", "korean"]
    assert all(tokens.shape == (8, 128) for tokens in windows.values())
    assert all(value > 1 for value in perplexities(load_model(source), {"english": windows["english"][:1]}).values())


def test_the_same_again_does_nothing_and_another_text_is_measured_without_rounding_again(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert(source, out, quantize="int4", text=text_of(source))
    written = (out / FILE).stat().st_ino
    again = convert(source, out, quantize="int4", text=text_of(source))
    assert (again.was_there, again.proof_seconds) == (True, 0)
    own = convert(source, out, quantize="int4")
    assert own.was_there
    assert own.proof is not None
    assert set(own.proof["perplexity_after"]) == {"english", "korean"}
    assert json.loads((out / "hanbit.json").read_text())["proof"] == own.proof
    assert (out / FILE).stat().st_ino == written
    assert not convert(source, out, quantize="int8", proof=False).was_there


def test_the_proof_finds_blocks_of_other_numbers(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(one: Rounded) -> Blocks:
        found = blocks_of(one)
        found.data[3, 5] ^= 1
        return found

    monkeypatch.setattr(quantised_origin, "blocks_of", wrong)
    with pytest.raises(ModelError, match=r"proof failed: embedding.weight of .* is not what its blocks or"):
        convert(source, tmp_path / "out", quantize="int4")
    assert not (tmp_path / "out").exists()


def test_weights_whose_rounding_makes_another_model_are_not_taken(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = quantised_origin.rounded
    monkeypatch.setattr(quantised_origin, "rounded", lambda numbers, scheme: whole(numbers.flip(0), scheme))
    with pytest.raises(ModelError, match=r"logits of .* of their size away from the source's"):
        convert(source, tmp_path / "out", quantize="int4")


def test_what_cannot_be_quantised_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="--quantize 'int3' must be int4, int8"):
        convert(source, out, quantize="int3")
    with pytest.raises(ConfigError, match="--group 48 must be 32, 64, 128"):
        convert(source, out, quantize="int4", group=48)
    with pytest.raises(ConfigError, match=r"--group 64 does not divide the rows of .*0.mlp.down_proj.weight, 96"):
        convert(source, out, quantize="int4", group=64)
    with pytest.raises(ConfigError, match="--group 64 goes with --quantize int4 or int8"):
        convert(source, out, group=64)
    with pytest.raises(ConfigError, match="--symmetric True goes with --quantize int4 or int8"):
        convert(source, out, symmetric=True)
    with pytest.raises(ConfigError, match="--group 0 goes with --quantize int4 or int8"):
        convert(source, out, group=0)
    with pytest.raises(ConfigError, match="--group 0 must be 32, 64, 128"):
        convert(source, out, quantize="int4", group=0)
    with pytest.raises(ConfigError, match="--method '' goes with --quantize int4 or int8"):
        convert(source, out, method="")
    with pytest.raises(ConfigError, match="--method '' must be rtn, gptq, awq"):
        convert(source, out, quantize="int4", method="")
    with pytest.raises(ConfigError, match="--calibration '' goes with --quantize int4 or int8"):
        convert(source, out, calibration="")
    with pytest.raises(ConfigError, match="--symmetric is of int4"):
        convert(source, out, quantize="int8", symmetric=True)
    with pytest.raises(ConfigError, match="--keep-blocks keeps a file's own blocks, --quantize makes new ones"):
        convert(source, out, quantize="int4", keep_blocks=True)
    with pytest.raises(ConfigError, match=r"nowhere.txt is not a file"):
        convert(source, out, quantize="int4", text=tmp_path / "nowhere.txt")
    (tmp_path / "short.txt").write_text("Hello")
    with pytest.raises(DataError, match=r"short.txt has \d+ tokens, perplexity takes windows of 128"):
        convert(source, out, quantize="int4", text=tmp_path / "short.txt")
    with pytest.raises(FormatError, match=r"q.gguf is quantised already, and rounding twice loses twice"):
        convert(write_gguf(tmp_path / "q.gguf"), out, quantize="int4")
    convert(source, tmp_path / "once", quantize="int8", proof=False)
    with pytest.raises(FormatError, match=r"once is quantised already: it has model.blocks or"):
        convert(tmp_path / "once", out, quantize="int4")
    with pytest.raises(ModelError, match="no matrix of family gpt can be in blocks"):
        convert(foreign_folder(tmp_path / "gpt", GPT), out, quantize="int4")
    with pytest.raises(ConfigError, match=r"Rows must be a multiple of 32"):
        convert(foreign_folder(tmp_path / "narrow"), out, quantize="int4")
    assert not out.exists()


@pytest.mark.parametrize("context", [1, 2, 3])
def test_a_context_in_which_no_token_is_told_is_refused_before_the_rounding(
    context: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"context": context, "vocabulary": 403}
    folder = foreign_folder(tmp_path / "short", load_model(source).config.model_copy(update=changes))
    write_tokenizer(folder)
    if context == 3:
        made = convert(folder, tmp_path / "out", quantize="int8", text=text_of(source))
        assert made.proof is not None
        assert made.proof["perplexity_before"]["text.txt"] > 1
        return
    monkeypatch.setattr(quantised_origin, "rounded", lambda *_: pytest.fail("it is being rounded"))
    with pytest.raises(DataError, match=f"a context of {context} tokens is too short for perplexity"):
        convert(folder, tmp_path / "out", quantize="int8", text=text_of(source))


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e6])
def test_numbers_that_are_none_are_refused_by_name(value: float, source: Path, tmp_path: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.self_attn.k_proj.weight"][3, 5] = value
    (tmp_path / "bad").mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "bad" / name).write_bytes((source / name).read_bytes())
    save_file(tensors, tmp_path / "bad/model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"bad: model.layers.1.self_attn.k_proj.weight"):
        convert(tmp_path / "bad", tmp_path / "out", quantize="int4")
    assert not (tmp_path / "out").exists()


def test_lines_tell_what_it_costs(source: Path, tmp_path: Path) -> None:
    app = typer.Typer()
    app.command()(command)
    arguments = [source, tmp_path / "out", "--quantize", "int4", "--group", "32", "--text", text_of(source)]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.exception
    first, _, third, fourth = result.stdout.splitlines()
    assert first.endswith("15 matrices to int4 by rtn in groups of 32 (5 bits a number; embedding and output int8)")
    assert third.startswith("proven in ")
    assert "15 matrices are what their blocks say" in third
    assert fourth.startswith("perplexity, text.txt: ")
    assert fourth.endswith("%)")


def test_the_folder_answers(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "out", quantize="int4", proof=False)
    assert LLM(tmp_path / "out", device="cpu").generate(["The fox"])[0].token_ids


def test_a_source_in_half_precision_is_rounded_once(source: Path, tmp_path: Path) -> None:
    config = load_model(source).config
    half = {name: tensor.bfloat16() for name, tensor in numbers(config).items()}
    write_tokenizer(tmp_path)
    save_model(tmp_path / "half", config, half, None, facts={})
    made = convert(tmp_path / "half", tmp_path / "out", quantize="int4")
    assert made.dtype == "float32"
    assert set(half) == set(shapes_of(config))
    stored = load_file(tmp_path / "out/model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(
        stored, rounded(half["layers.0.mlp.up.weight"].float(), Scheme(4, 32, is_symmetric=False)).numbers()
    )


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_methods_that_look_at_a_text_make_whole_folders_once(method: str, source: Path, tmp_path: Path) -> None:
    out, text = tmp_path / "out", text_of(source)
    made = convert(source, out, quantize="int4", method=method, calibration=str(text), text=text)
    assert made.proof is not None
    assert made.proof["in_blocks"] == 15
    assert convert(source, out, quantize="int4", method=method, calibration=str(text), text=text).was_there
    after = load_file(out / "model.safetensors")
    for name, one in read_blocks(out).items():
        assert torch.equal(one.numbers(), after[name]), name
    convert(source, tmp_path / "nearest", quantize="int4", text=text)
    nearest = load_file(tmp_path / "nearest/model.safetensors")
    assert any(not torch.equal(nearest[name], after[name]) for name in read_blocks(out)), "the text was not looked at"
    before = made.proof["perplexity_before"]["text.txt"]
    assert abs(made.proof["perplexity_after"]["text.txt"] / before - 1) < 0.2
    (tmp_path / "other.txt").write_text(TEXT[::-1])
    other = convert(source, out, quantize="int4", method=method, calibration=str(tmp_path / "other.txt"), text=text)
    assert not other.was_there
    assert made.described.startswith("llama, 2 layers")
    assert f"int4 by {method} in groups of 32" in made.described


def biased(source: Path, path: Path) -> Path:
    """A folder whose projections have biases, into some of which AWQ folds, as it does into rows of value."""
    biases = dict.fromkeys(("query_key_value_bias", "attention_output_bias", "mlp_bias"), True)
    changes = {"vocabulary": 403, "key_value_heads": 4, **biases}
    folder = foreign_folder(path, load_model(source).config.model_copy(update=changes))
    write_tokenizer(folder)

    def filled(tensors: dict[str, torch.Tensor]) -> None:
        random = torch.Generator().manual_seed(2)
        for name in sorted(tensors):
            drawn = torch.randn(len(tensors[name]), generator=random)
            if name.endswith(".bias"):
                tensors[name] = 0.1 * drawn + 0.2
            elif name.endswith(("v_proj.weight", "up_proj.weight")):  # channels of many sizes for what is behind
                tensors[name] *= drawn.exp().unsqueeze(1)

    change_weights(folder, filled)
    return folder


def make_one_wrong(monkeypatch: pytest.MonkeyPatch, name: str, factor: float) -> None:
    """One number of a parameter, after AWQ has folded what it folds."""
    whole = quantised_origin.calibrated

    def with_one_wrong(model: Decoder, *rest: Any) -> dict[str, Rounded]:
        found = whole(model, *rest)
        model.get_parameter(name)[7] *= factor
        return found

    monkeypatch.setattr(quantised_origin, "calibrated", with_one_wrong)


@pytest.mark.parametrize("name", ["attention_norm.weight", "mlp_norm.weight", "attention.value.bias", "mlp.up.bias"])
def test_the_proof_of_awq_finds_a_number_that_took_a_factor_alone(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One channel of a norm, or of a bias, is not what the matrices behind it were multiplied for."""
    folder, text = biased(source, tmp_path / "biased"), str(text_of(source))
    convert(folder, tmp_path / "whole", quantize="int4", method="awq", calibration=text, text=text)
    before, after = (read_tensors(one)[f"layers.1.{name}"] for one in (folder, tmp_path / "whole"))
    assert not torch.equal(before, after), "there is something to prove"
    make_one_wrong(monkeypatch, f"layers.1.{name}", 1.5)
    with pytest.raises(ModelError, match=f"proof failed: layers.1.{name} of .* is not what its blocks or"):
        convert(folder, tmp_path / "out", quantize="int4", method="awq", calibration=text, text=text)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["norm.weight", "layers.0.attention.query.bias", "layers.1.mlp.down.bias"])
def test_the_proof_of_awq_compares_what_nothing_is_folded_into(
    name: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = biased(source, tmp_path / "biased"), str(text_of(source))
    make_one_wrong(monkeypatch, name, 1 + 2**-20)
    with pytest.raises(ModelError, match=f"proof failed: {name} of .* is not what its blocks or"):
        convert(folder, tmp_path / "out", quantize="int4", method="awq", calibration=text, text=text)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_proof_of_awq_takes_every_familys_own_folds(family: str, source: Path, tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "source", FAMILIES[family])
    write_tokenizer(folder)
    text = text_of(source)
    for choice, dtype in (("int4", "auto"), ("int8", "auto"), ("int4", "bfloat16")):
        made = convert(
            folder, tmp_path / "out", quantize=choice, dtype=dtype, method="awq", calibration=str(text), text=text
        )
        assert made.proof is not None


def test_own_calibration_is_of_both_languages_where_they_are_there(source: Path) -> None:
    sources = calibration_sources(None)
    assert sources[0].name == "python-docs"
    windows = calibration_tokens(load(source), sources, 64)
    assert windows.shape == (32, 64)
    assert torch.equal(windows, calibration_tokens(load(source), sources, 64))
    if len(sources) == 2:
        assert any("가" <= letter <= "힣" for letter in load(source).decode(windows[-1].tolist()))


def test_a_method_without_what_it_needs_is_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="--method 'best' must be rtn, gptq, awq"):
        convert(source, out, quantize="int4", method="best")
    with pytest.raises(ConfigError, match="--method gptq goes with --quantize"):
        convert(source, out, method="gptq")
    with pytest.raises(ConfigError, match="--calibration goes with --method gptq or awq; rtn looks at no text"):
        convert(source, out, quantize="int4", calibration="python-docs")
    with pytest.raises(DataError, match="nowhere is neither a file, a folder, nor a built-in corpus"):
        convert(source, out, quantize="int4", method="gptq", calibration="nowhere")
    (tmp_path / "short.txt").write_text("Hello")
    with pytest.raises(DataError, match=r"--calibration .*short.txt has not 128 tokens, one window"):
        convert(source, out, quantize="int4", method="gptq", calibration=str(tmp_path / "short.txt"))
    folder = foreign_folder(tmp_path / "mute", load_model(source).config)
    with pytest.raises(ConfigError, match=r"--method awq reads a text, and .*mute has no tokenizer.json"):
        convert(folder, out, quantize="int4", method="awq")
    assert not out.exists()
