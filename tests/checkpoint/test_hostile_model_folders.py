"""Folders that are damaged, incomplete, absurd or meant to harm: each a ModelError that names the trouble."""

import json
import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hanbit.checkpoint.model_folder import load_model, read_config, read_tensors
from hanbit.common.errors import ModelError
from tests.checkpoint.model_folders import GPT, LLAMA, change_config, change_weights, foreign_folder

QWEN2 = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
PLAIN = {"rope_scaling": None, "rope_parameters": None}

ABSURD: list[tuple[dict[str, Any], str]] = [
    ({"num_hidden_layers": 10**6}, "1000000 layers are beyond any model"),
    ({"num_hidden_layers": 10**400}, "layers are beyond any model"),
    ({"num_hidden_layers": 0}, "layers=0"),
    ({"num_hidden_layers": "2"}, "num_hidden_layers='2' must be int"),
    ({"num_hidden_layers": True}, "num_hidden_layers=True must be int"),
    ({"vocab_size": 2**40}, "vocabulary=1099511627776 .*beyond any model"),
    ({"hidden_size": 2**24, "head_dim": 2**22}, "beyond any model"),
    ({"hidden_size": -16}, "hidden=-16"),
    ({"num_attention_heads": 0}, "heads=0"),
    ({"num_key_value_heads": 3}, "num_key_value_heads=3 does not divide num_attention_heads=4"),
    ({"head_dim": 5}, "head_dim=5 must be even"),
    ({"head_dim": None, "hidden_size": 18}, "num_attention_heads=4 does not divide hidden_size=18"),
    ({"rms_norm_eps": -1.0}, "norm_epsilon=-1.0"),
    ({"rms_norm_eps": 10**400}, "rms_norm_eps is a number of 401 digits"),
    ({"rms_norm_eps": float("nan")}, "norm_epsilon=nan"),
    ({"architectures": None}, "must name one architecture"),
    ({"architectures": 5}, "must name one architecture"),
    ({"architectures": ["FooModel"]}, "'FooModel' is not one that hanbit reads.*GPT2LMHeadModel.*Qwen3ForCausalLM"),
    ({"model_type": "mistral"}, "LlamaForCausalLM has model_type='llama', not 'mistral'"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config.bits=None is not read; hanbit reads 4, 8"),
    ({"hidden_act": "relu"}, "hidden_act='relu' is not built"),
    ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no' must be bool"),
    ({**PLAIN, "rope_theta": "x"}, "rope_theta='x' must be int or float"),
    ({**PLAIN, "rope_parameters": [1]}, "rope parameters of type list"),
    ({**PLAIN, "rope_parameters": {"full_attention": {"rope_theta": 5.0}}}, "'full_attention', which is not built"),
    ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_type='dynamic' is not built"),
    ({"rope_scaling": {"rope_type": "longrope"}}, "rope_type='longrope' is not built"),
    ({"rope_scaling": {"rope_type": ["yarn"]}}, r"rope_type=\['yarn'\] is not built"),
    ({"rope_scaling": {"rope_type": "yarn"}}, "has no factor"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": None}}, "truncate=None is not built"),
    ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "mscale=0.7 is not built"),
    ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0, "low_freq_factor": []}}, r"low_freq_factor=\[\] must be"),
    (
        {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 10**400}},
        "original context=.*beyond any model",
    ),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5, which transformers does not honour"),
    ({"layer_types": 5}, "layer_types has others than full_attention"),
    ({"layer_types": [{}, {}]}, "layer_types has others than full_attention"),
    ({**QWEN2, "layer_types": ["chunked_attention"] * 2}, "layer_types has others than full_attention"),
    ({**QWEN2, "use_sliding_window": True, "max_window_layers": 1}, "max_window_layers=1 of 2 layers mixes"),
    (
        {**QWEN2, "use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]},
        "layer_types has others than full_attention",
    ),
    ({**MISTRAL, "sliding_window": 8, "layer_types": ["full_attention"] * 2}, "others than sliding_attention"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return foreign_folder(tmp_path / "foreign")


@pytest.mark.parametrize(("changes", "message"), ABSURD, ids=lambda value: str(value)[:60])
def test_config_that_cannot_be_honoured_is_refused_at_once(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_config(folder, changes)
    started = time.monotonic()
    with pytest.raises(ModelError, match=message) as problem:
        read_tensors(folder)
    assert time.monotonic() - started < 10
    assert len(str(problem.value)) < 700, "a hostile value is repeated at full length"


GPT_ABSURD: list[tuple[dict[str, Any], str]] = [
    ({"n_head": 5}, "n_head=5 does not divide n_embd=16"),
    ({"n_head": 60}, "n_head=60 does not divide n_embd=16"),
    ({"num_attention_heads": 2}, "num_attention_heads and n_head are the same, yet differ"),
    ({"activation_function": "relu"}, "activation_function='relu' is not built"),
    ({"scale_attn_weights": False}, "scale_attn_weights=False is not built"),
    ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not built"),
]


@pytest.mark.parametrize(("changes", "message"), GPT_ABSURD, ids=lambda value: str(value)[:60])
def test_gpt_config_that_cannot_be_honoured_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    change_config(foreign_folder(tmp_path / "gpt", GPT), changes)
    with pytest.raises(ModelError, match=message):
        read_config(tmp_path / "gpt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b"\xff\xfe{}", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b"[1]", "must hold an object, not a list"),
        (b"", "is not JSON"),
        (b" " * 50_000_001, "is larger than 50000000 bytes"),
    ],
    ids=["cut", "utf-16", "deep", "digits", "list", "empty", "large"],
)
def test_config_file_that_is_no_object_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_config(folder)


def test_missing_folder_is_named_and_a_model_nearby_is_told(folder: Path) -> None:
    with pytest.raises(ModelError, match="nowhere is not a model folder"):
        read_config(folder.parent / "nowhere")
    with pytest.raises(ModelError, match="is not a model folder"):
        read_config(folder / "config.json")
    folder.rename(folder.parent / "model")
    with pytest.raises(ModelError, match="There is one in"):
        read_config(folder.parent)


@pytest.mark.parametrize("kept", [0, 4, 100, 0.5, -1])
def test_truncated_weights_are_refused(folder: Path, kept: float) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else int(kept)])
    with pytest.raises(ModelError, match="truncated or damaged; copy it again"):
        load_model(folder)


def test_header_that_claims_more_than_memory_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match="truncated or damaged"):
        load_model(folder)


def test_tensor_of_another_shape_missing_or_left_over_is_named(folder: Path) -> None:
    key = "model.layers.1.self_attn.k_proj.weight"
    change_weights(folder, lambda tensors: tensors.update({key: torch.zeros(16, 16)}))
    with pytest.raises(ModelError, match=rf"{key} has shape \(16, 16\), config.json asks for \(8, 16\)"):
        read_tensors(folder)
    change_weights(folder, lambda tensors: tensors.pop(key))
    with pytest.raises(ModelError, match=rf"has no tensor {key} \(layers.1.attention.key.weight\)"):
        read_tensors(folder)


@pytest.mark.parametrize(
    "name", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias", "h.0.attn.bias"]
)
def test_tensor_that_the_model_has_no_place_for_is_refused(folder: Path, name: str) -> None:
    change_weights(folder, lambda tensors: tensors.update({name: torch.zeros(3)}))
    with pytest.raises(ModelError, match=f"has a tensor {name} that llama has no place for"):
        read_tensors(folder)


def test_weights_in_whole_numbers_are_refused(folder: Path) -> None:
    change_weights(folder, lambda tensors: tensors.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)}))
    with pytest.raises(ModelError, match=r"model.norm.weight is I8, hanbit reads F32"):
        read_tensors(folder)


def test_tied_output_that_differs_from_the_embedding_is_refused(tmp_path: Path) -> None:
    folder = foreign_folder(tmp_path / "tied", LLAMA.model_copy(update={"tied": True}))
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change_weights(folder, lambda tensors: tensors.update({"lm_head.weight": embedding.clone()}))
    assert "output.weight" not in read_tensors(folder)  # a mere copy is harmless
    change_weights(folder, lambda tensors: tensors["lm_head.weight"].neg_())
    with pytest.raises(ModelError, match=r"tie_word_embeddings is true, yet lm_head.weight is not"):
        read_tensors(folder)


class Payload:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.trace,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.safetensors"])
def test_pickles_are_refused_and_never_run(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    trace = folder / "it-ran"
    (folder / name).write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(ModelError, match=r"pickled weights only|truncated or damaged"):
        load_model(folder)
    assert not trace.exists()


def shards(folder: Path, weight_map: Any) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[:5]}, folder / "a.safetensors")
    save_file({name: tensors[name] for name in names[5:]}, folder / "b.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize(
    "name", ["../foreign/a.safetensors", "/etc/passwd", "..", "", "x\\y.safetensors", "config.json", 5]
)
def test_index_that_names_anything_but_weights_beside_it_is_refused(folder: Path, name: Any) -> None:
    shards(folder, {"x": "b.safetensors", "y": name})
    with pytest.raises(ModelError, match=r"must name .safetensors files in its own folder"):
        read_tensors(folder)


def test_index_is_followed_and_its_faults_are_told(folder: Path) -> None:
    whole = {name: tensor.clone() for name, tensor in read_tensors(folder).items()}
    shards(folder, {"x": "a.safetensors", "y": "b.safetensors"})
    assert all(torch.equal(whole[name], tensor) for name, tensor in read_tensors(folder).items())
    save_file({"model.norm.weight": torch.ones(16)}, folder / "c.safetensors")
    index = folder / "model.safetensors.index.json"
    for weight_map, message in (
        ({"x": "a.safetensors"}, "has no tensor"),
        ({"x": "a.safetensors", "y": "gone.safetensors"}, "gone.safetensors is missing, though"),
        ({"x": "a.safetensors", "y": "b.safetensors", "z": "c.safetensors"}, "model.norm.weight, and so has"),
        ([], "weight_map must be an object"),
        ({}, "weight_map must be an object"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(ModelError, match=message):
            read_tensors(folder)
