"""Folders of AWQ, GPTQ, compressed-tensors: the numbers that were packed, blocks where groups allow, lies refused."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hanbit import LLM, SamplingParams, convert
from hanbit.checkpoint.block_names import matrix_names
from hanbit.checkpoint.model_folder import load_model, read_tensors
from hanbit.common.errors import FormatError, ModelError
from hanbit.config.model import LlamaConfig, ModelConfig, NeoXConfig, Phi3Config
from hanbit.engine.as_stored import load_as_stored
from hanbit.engine.native import BlockLinear, NativeEmbedding, NativeLinear
from hanbit.formats.gguf.blocks import read_blocks
from hanbit.kernels.library import native, why_not
from hanbit.models.registry import family_of
from tests.checkpoint.model_folders import change_config, change_weights, foreign_folder
from tests.engine.folders import write_tokenizer
from tests.formats.packed_folders import (
    AWQ_CONFIG,
    COMPRESSED_CONFIG,
    GPTQ_CONFIG,
    awq,
    codes_of,
    compressed,
    gptq,
    numbers_of,
    pack_folder,
)

SHAPE = {"layers": 2, "hidden": 64, "heads": 4, "inner": 96, "vocabulary": 403, "context": 64}
LLAMA = LlamaConfig(family="llama", key_value_heads=2, head_dim=16, tied=True, **SHAPE)
QUERY = "model.layers.0.self_attn.q_proj"

Write = Callable[[str, tuple[int, int], int], tuple[dict[str, torch.Tensor], torch.Tensor]]


def writer(pack: Any, bits: int = 4, zero: int | None = None, group: int = 32, **options: Any) -> Write:
    def write(name: str, shape: tuple[int, int], seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        parts = codes_of(shape, group, bits, zero=zero, seed=seed)
        width = {} if pack is awq else {"bits": bits}
        return pack(name, *parts, **width, **options), numbers_of(*parts, options.get("group_of"))

    return write


def in_disorder(name: str, shape: tuple[int, int], seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """desc_act: columns of a group lie anywhere."""
    group_of = np.random.default_rng(seed).permutation(np.arange(shape[1]) // 32)
    parts = codes_of(shape, 32, 4, zero=None, seed=seed)
    return gptq(name, *parts, group_of=group_of), numbers_of(*parts, group_of)


def of_channels(name: str, shape: tuple[int, int], seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """One scale a row, bfloat16."""
    codes, zeros, scales = codes_of(shape, shape[1], 8, zero=128, seed=seed)
    scales = torch.from_numpy(scales).bfloat16()
    tensors = compressed(name, codes, zeros, scales.float().numpy(), bits=8)
    return {**tensors, f"{name}.weight_scale": scales}, numbers_of(codes, zeros, scales.float().numpy())


EIGHT = {**GPTQ_CONFIG, "bits": 8}
SECOND = {**GPTQ_CONFIG, "checkpoint_format": "gptq_v2"}
CASES: dict[
    str, tuple[Write, dict[str, Any], str | None]
] = {  # what writes, config, ggml's type where there are blocks
    "awq": (writer(awq), AWQ_CONFIG, "Q4_1"),
    "gptq, zeros one too low": (writer(gptq), GPTQ_CONFIG, "Q4_1"),
    "gptq, symmetric": (writer(gptq, zero=8), GPTQ_CONFIG, "Q4_0"),
    "gptq, second format": (writer(gptq, added=0), SECOND, "Q4_1"),
    "gptq, 8 bits": (writer(gptq, bits=8, zero=128), EIGHT, "Q8_0"),
    "gptq, 8 bits with zeros": (writer(gptq, bits=8), EIGHT, None),
    "gptq, desc_act": (in_disorder, {**GPTQ_CONFIG, "desc_act": True}, None),
    "gptq, groups of 16": (writer(gptq, group=16), {**GPTQ_CONFIG, "group_size": 16}, None),
    "compressed, symmetric": (writer(compressed, zero=8), COMPRESSED_CONFIG, "Q4_0"),
    "compressed, asymmetric": (writer(compressed), COMPRESSED_CONFIG, "Q4_1"),
    "compressed, 8 bits": (writer(compressed, bits=8, zero=128), COMPRESSED_CONFIG, "Q8_0"),
    "compressed, channels of 8 bits": (of_channels, COMPRESSED_CONFIG, "Q8_0"),
}


def packed(path: Path, case: str) -> tuple[Path, dict[str, torch.Tensor], str | None]:
    write, config, type = CASES[case]
    folder = foreign_folder(path / "packed", LLAMA)
    write_tokenizer(folder)
    return folder, pack_folder(folder, write, config), type


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_that_were_packed(case: str, tmp_path: Path) -> None:
    """Least numbers of blocks, here below 1, are rounded to fp16: by 2^-12 at most. Scales are fp16 already."""
    folder, meant, type = packed(tmp_path, case)
    convert(folder, tmp_path / "out")
    found = load_file(tmp_path / "out/model.safetensors")
    for name, wanted in meant.items():
        bound = 2**-12 if type == "Q4_1" else 0.0
        assert float((found[name] - wanted).abs().max()) <= bound + 2e-7, name
        assert found[name].dtype == torch.float32


@pytest.mark.parametrize("case", CASES)
def test_blocks_are_the_same_numbers_or_refused(case: str, tmp_path: Path) -> None:
    folder, meant, type = packed(tmp_path, case)
    if type is None:
        with pytest.raises(FormatError, match="No blocks can be kept: leave --keep-blocks out"):
            convert(folder, tmp_path / "out", keep_blocks=True)
        return
    made = convert(folder, tmp_path / "out", keep_blocks=True)
    assert made.proof is not None
    assert "packed matrices by hanbit" in made.proof["readers"]
    blocks, tensors = read_blocks(tmp_path / "out"), load_file(tmp_path / "out/model.safetensors")
    assert set(blocks) == set(meant)
    for name, one in blocks.items():
        assert one.type == type
        assert torch.equal(one.numbers(), tensors[name])


JOINED: dict[str, ModelConfig] = {
    "phi3": Phi3Config(family="phi3", key_value_heads=2, head_dim=16, tied=False, **SHAPE),
    "neox": NeoXConfig(family="neox", **SHAPE),
}
ENDS = ("_proj.weight", "query_key_value.weight", "dense.weight", "h_to_4h.weight", "4h_to_h.weight")


@pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")
@pytest.mark.parametrize("family", JOINED)
@pytest.mark.parametrize("case", ["awq", "gptq, symmetric", "compressed, 8 bits", "gptq, desc_act"])
def test_blocks_of_matrices_that_are_packed_as_one_are_multiplied_as_they_are(
    case: str, family: str, tmp_path: Path
) -> None:
    """The engine's numbers, row by row, are those that were packed, and so are those of a folder that keeps them."""
    write, config, type = CASES[case]
    folder = foreign_folder(tmp_path / "packed", JOINED[family])
    write_tokenizer(folder)
    meant = pack_folder(folder, write, config, ENDS)
    assert len(meant) == 2 * 4
    model, floats = load_as_stored(folder, True), read_tensors(folder)
    for name in matrix_names(floats.shapes):
        layer = model.get_submodule(name.removesuffix(".weight"))
        stored = family_of(floats.config).huggingface.source_of(name, floats.config)
        if stored.name not in meant or type is None:
            assert not isinstance(layer, BlockLinear)
            continue
        assert isinstance(layer, BlockLinear)
        assert layer.matrix.kind.name == type
        wanted = stored.read(meant[stored.name])
        found = NativeEmbedding(NativeLinear(layer))(torch.arange(len(wanted)))
        assert float((found - wanted).abs().max()) <= (2**-12 if type == "Q4_1" else 0.0) + 2e-7
        assert torch.equal(found, floats[name])
    if type is None:
        return
    made = convert(folder, tmp_path / "out", keep_blocks=True)
    assert made.proof is not None
    assert set(read_blocks(tmp_path / "out")) == set(meant)
    prompt, greedy = "The quick brown fox", SamplingParams(temperature=0, max_tokens=6, ignore_eos=True)
    packed, kept = (LLM(one, device="cpu", quantization="blocks") for one in (folder, tmp_path / "out"))
    assert packed.generate([prompt], greedy)[0].token_ids == kept.generate([prompt], greedy)[0].token_ids


def with_small_scales(path: Path, size: float, dtype: torch.dtype) -> tuple[Path, torch.Tensor]:
    """A folder of compressed-tensors, one of whose matrices has scales of about `size`; that matrix's numbers."""
    meant: dict[str, torch.Tensor] = {}

    def write(name: str, shape: tuple[int, int], seed: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        codes, zeros, scales = codes_of(shape, 32, 4, zero=8, seed=seed)
        kept = torch.from_numpy(scales)
        if name == QUERY:
            kept = (kept.float() / kept.float().mean() * size).to(dtype)
        tensors = {**compressed(name, codes, zeros, scales), f"{name}.weight_scale": kept}
        meant[name] = numbers_of(codes, zeros, kept.float().numpy())
        return tensors, meant[name]

    folder = foreign_folder(path / "packed", LLAMA)
    write_tokenizer(folder)
    pack_folder(folder, write, COMPRESSED_CONFIG)
    return folder, meant[QUERY]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("size", "is_held"), [(1e-2, True), (1e-5, True), (1e-7, False), (1e-9, False)])
def test_scales_that_fp16_hardly_holds_stay_as_they_are_and_are_told(
    size: float, is_held: bool, dtype: torch.dtype, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, wanted = with_small_scales(tmp_path, size, dtype)
    tensors = read_tensors(folder)
    found, blocks = tensors.in_file(f"{QUERY}.weight"), tensors.blocks()
    assert float((found - wanted).norm() / wanted.norm()) < 0.02
    if is_held:
        assert torch.equal(blocks[f"{QUERY}.weight"].numbers(), found)
        assert not caplog.text
    else:
        assert torch.equal(found, wanted)
        names = [name.removesuffix("_packed") for name in load_file(folder / "model.safetensors") if "packed" in name]
        assert set(blocks) == {*names} - {f"{QUERY}.weight"}
        assert f"{QUERY}.weight: it has scales that fp16 holds too coarsely (below about 1e-06)" in caplog.text


@pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")
def test_blocks_that_a_packed_folder_has_not_are_refused_when_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, *_ = packed(tmp_path, "gptq, desc_act")
    with pytest.raises(
        FormatError, match=r"quantization=blocks: .*packed is packed, .*out of order \(desc_act\)\. Leave"
    ):
        LLM(folder, device="cpu", quantization="blocks")
    caplog.clear()
    LLM(folder, device="cpu")
    assert caplog.messages == [
        f"{folder}: {QUERY}.weight and 13 more: its groups are out of order (desc_act). Taken as float32"
    ]
    folder, *_ = packed(tmp_path / "other", "awq")
    LLM(folder, device="cpu", quantization="blocks")


@pytest.mark.parametrize("case", ["gptq, desc_act", "gptq, 8 bits with zeros", "gptq, groups of 16"])
def test_that_no_blocks_can_be_kept_is_said_before_anything_is_written(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, *_ = packed(tmp_path, case)
    monkeypatch.setattr("hanbit.convert.convert.save_model", lambda *_: pytest.fail("something is written"))
    with pytest.raises(FormatError, match=r"its (groups|codes) .*\. No blocks can be kept"):
        convert(folder, tmp_path / "out", keep_blocks=True)


@pytest.mark.skipif(native() is None, reason=f"native kernels: {why_not()}")
@pytest.mark.parametrize("case", ["awq", "gptq, 8 bits", "gptq, desc_act", "compressed, symmetric"])
def test_such_a_folder_answers_as_it_is(case: str, tmp_path: Path) -> None:
    folder, _, type = packed(tmp_path, case)
    blocks, exact = (LLM(folder, device="cpu", quantization=one) for one in ("auto", "none"))
    prompt, greedy = "The quick brown fox", SamplingParams(temperature=0, max_tokens=4, ignore_eos=True)
    assert len(blocks.generate([prompt], greedy)[0].token_ids) == 4
    assert len(exact.generate([prompt], greedy)[0].token_ids) == 4
    kinds = {matrix.kind.name for layer in blocks.model.layers.values() for matrix in layer.mlp.down.matrices}
    assert kinds == {type or "FLOAT32"}


def test_a_folder_with_a_bias_and_a_prefix_left_out_is_read(tmp_path: Path) -> None:
    config = LLAMA.model_copy(update={"mlp_bias": True})
    folder = foreign_folder(tmp_path / "packed", config)
    meant = pack_folder(folder, CASES["awq"][0], AWQ_CONFIG)

    def shortened(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    change_weights(folder, shortened)
    found = read_tensors(folder)["layers.0.mlp.up.weight"]
    assert float((found - meant["model.layers.0.mlp.up_proj.weight"]).abs().max()) < 1e-3


def test_biases_of_zeros_that_gptqs_packages_write_are_passed_over(tmp_path: Path) -> None:
    folder, *_ = packed(tmp_path, "gptq, symmetric")
    name = "model.layers.0.mlp.down_proj.bias"
    change_weights(folder, lambda tensors: tensors.update({name: torch.zeros(64)}))
    load_model(folder)
    change_weights(folder, lambda tensors: tensors.update({name: torch.full((64,), 0.1)}))
    with pytest.raises(ModelError, match=r"down_proj.bias that llama has no place for"):
        load_model(folder)


@pytest.mark.parametrize(
    ("weights", "missing"),
    [({"symmetric": False}, "weight_zero_point"), ({"actorder": "group"}, "weight_g_idx")],
)
def test_what_the_configuration_promises_is_asked_for(weights: dict[str, Any], missing: str, tmp_path: Path) -> None:
    folder, *_ = packed(tmp_path, "compressed, symmetric")
    config = copy.deepcopy(COMPRESSED_CONFIG)
    config["config_groups"]["group_0"]["weights"] |= weights  # type: ignore[index]
    change_config(folder, {"quantization_config": config})
    with pytest.raises(ModelError, match=f"{missing} is missing beside"):
        load_model(folder)


def test_what_is_quantised_already_is_not_quantised_again(tmp_path: Path) -> None:
    folder, *_ = packed(tmp_path, "awq")
    with pytest.raises(FormatError, match=r"is quantised already: it has model.blocks or a quantization_config"):
        convert(folder, tmp_path / "out", quantize="int4")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"quant_method": "bitsandbytes"},
            "quant_method='bitsandbytes' is not read; hanbit reads awq, gptq, compressed",
        ),
        ([1], "quantization_config must be an object, not list"),
        ({**AWQ_CONFIG, "version": "gemv"}, r"quantization_config.version='gemv' is not read; hanbit reads 'gemm'"),
        ({**AWQ_CONFIG, "zero_point": False}, "zero_point=False is not read"),
        ({**AWQ_CONFIG, "bits": 3}, "bits=3 is not read; hanbit reads 4"),
        ({**GPTQ_CONFIG, "bits": 3}, "bits=3 is not read; hanbit reads 4, 8"),
        ({**GPTQ_CONFIG, "checkpoint_format": "marlin"}, "checkpoint_format='marlin' is not read"),
        ({**COMPRESSED_CONFIG, "format": "float-quantized"}, "format='float-quantized' is not read"),
        ({**COMPRESSED_CONFIG, "kv_cache_scheme": {}}, "kv_cache_scheme={} is not read; hanbit reads none"),
        ({**COMPRESSED_CONFIG, "config_groups": {}}, "config_groups must be an object that has an object for each"),
        (
            {**COMPRESSED_CONFIG, "config_groups": {"a": {"weights": {"num_bits": 4, "type": "float"}}}},
            r"config_groups.a.weights.type='float' is not read; hanbit reads 'int'",
        ),
        (
            {**COMPRESSED_CONFIG, "config_groups": {"a": {"weights": {"num_bits": 4}, "input_activations": {}}}},
            r"config_groups.a.input_activations={} is not read",
        ),
    ],
)
def test_other_quantisations_are_refused_by_name(config: Any, message: str, tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "packed", LLAMA)
    change_config(folder, {"quantization_config": config})
    with pytest.raises(ModelError, match=message):
        read_tensors(folder)


def _replace(part: str, tensor: torch.Tensor) -> Callable[[dict[str, torch.Tensor]], Any]:
    return lambda tensors: tensors.update({f"{QUERY}.{part}": tensor})


LIES: list[tuple[str, Callable[[dict[str, torch.Tensor]], Any], str]] = [
    ("awq", lambda tensors: tensors.pop(f"{QUERY}.scales"), "q_proj.scales is missing beside"),
    ("awq", _replace("weight", torch.zeros(64, 64)), "q_proj.weight is there beside .*qweight: which"),
    ("awq", _replace("qweight", torch.zeros(64, 7, dtype=torch.int32)), "qweight has 7 columns, its scales are of 64"),
    ("awq", _replace("qweight", torch.zeros(64, 8)), r"qweight is F32 \[64, 8\]; awq has I32 of 2 dims there"),
    (
        "awq",
        _replace("qzeros", torch.zeros(3, 8, dtype=torch.int32)),
        r"qzeros has shape \[3, 8\], .* asks for \[2, 8\]",
    ),
    ("awq", _replace("scales", torch.full((2, 64), torch.nan)), "has a scale that is no finite number"),
    ("awq", _replace("qweight", torch.zeros(32, 8, dtype=torch.int32)), r"is packed \(64, 32\), config.json asks for"),
    (
        "gptq, symmetric",
        _replace("g_idx", torch.full((64,), 2, dtype=torch.int32)),
        "a column is of group 2, there are 2",
    ),
    ("gptq, desc_act", lambda tensors: tensors.pop(f"{QUERY}.g_idx"), "q_proj.g_idx is missing beside"),
    ("gptq, symmetric", _replace("g_idx", torch.zeros(63, dtype=torch.int32)), r"g_idx has shape \[63\]"),
    (
        "compressed, symmetric",
        _replace("weight_shape", torch.tensor([64, 10**9])),
        r"weight_shape says \[64, 1000000000\]",
    ),
    ("compressed, symmetric", _replace("weight_shape", torch.tensor([64])), r"weight_shape has shape \[1\]"),
    ("compressed, symmetric", _replace("weight_scale", torch.ones(64, 3)), "3 groups do not divide its rows of 64"),
    (
        "awq",
        lambda tensors: [tensors.pop(one) for one in list(tensors) if "q" in one.split(".")[-1]],
        "no tensor is called",
    ),
]


@pytest.mark.parametrize(("case", "change", "message"), LIES, ids=[message for *_, message in LIES])
def test_lies_are_refused_by_name(case: str, change: Any, message: str, tmp_path: Path) -> None:
    folder, *_ = packed(tmp_path, case)
    change_weights(folder, change)
    with pytest.raises(ModelError, match=message):
        load_model(folder)
