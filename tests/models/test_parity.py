"""Our models against transformers' own, fp32, on random small configurations; and back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from hanbit.checkpoint.model_folder import load_model, read_config, read_tensors, save_model
from hanbit.common.errors import ModelError
from hanbit.models.layers.attend import causal
from hanbit.models.registry import FAMILIES
from tests.models.shapes import CONFIGS, OTHER_WRITERS, shake

ARCHITECTURES = {kind: name for family in FAMILIES.values() for name, kind in family.huggingface.architectures.items()}
TOKENS = 40  # longer than every window and than the stretched rotary contexts' originals


def logits_of_ours(folder: Path, tokens: torch.Tensor) -> torch.Tensor:
    model = load_model(folder)
    positions = torch.arange(tokens.shape[1])
    with torch.no_grad():
        return model.head(model.trunk(model.embed(tokens, positions), positions, causal()))


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_equal_transformers_and_our_folder_loads_there(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.float32).eval()
    shake(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    tokens = torch.randint(131, (2, TOKENS))
    with torch.no_grad():
        wanted = theirs(tokens).logits
    assert wanted.std() > 0.5, "logits that hardly vary would prove nothing"
    torch.testing.assert_close(logits_of_ours(tmp_path / "theirs", tokens), wanted, rtol=0, atol=1e-4)

    tensors = dict(read_tensors(tmp_path / "theirs"))
    save_model(tmp_path / "ours", read_config(tmp_path / "theirs"), tensors, None, facts={})
    reloaded, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        torch.testing.assert_close(reloaded.eval()(tokens).logits, wanted, rtol=0, atol=1e-5)
    assert read_config(tmp_path / "ours") == read_config(tmp_path / "theirs")


@pytest.mark.parametrize("name", OTHER_WRITERS)
def test_config_of_other_writers_is_read_as_transformers_reads_it(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape, changes, without = OTHER_WRITERS[name]
    model = AutoModelForCausalLM.from_config(CONFIGS[shape], dtype=torch.float32)
    shake(model)
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in without}))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    tokens = torch.randint(131, (2, TOKENS))
    with torch.no_grad():
        torch.testing.assert_close(logits_of_ours(tmp_path, tokens), theirs(tokens).logits, rtol=0, atol=1e-4)


def test_window_that_mistral_does_not_name_is_transformers_own(tmp_path: Path) -> None:
    """4096 tokens are too many to see it in the logits of a small test."""
    CONFIGS["mistral window"].save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = {**json.loads(path.read_text()), "architectures": ["MistralForCausalLM"]}
    del config["sliding_window"]
    path.write_text(json.dumps(config))
    assert read_config(tmp_path).sliding_window == AutoConfig.from_pretrained(tmp_path).sliding_window


HUB_NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers": "transformer.h",
    "self_attn.o_proj": "attn.attention.out_proj",
    "self_attn": "attn.attention",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "mlp.gate_proj": "mlp.c_fc_0",
    "mlp.up_proj": "mlp.c_fc_1",
    "mlp.down_proj": "mlp.c_proj",
}
HUB_KEYS = {
    "num_hidden_layers": "num_layers",
    "rms_norm_eps": "layer_norm_epsilon",
    "hidden_act": "activation_function",
}


def test_exaone_3_is_read_by_the_names_of_its_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS["llama"], dtype=torch.float32)
    shake(model)
    model.save_pretrained(tmp_path)
    tensors = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        for ours, theirs in HUB_NAMES.items():
            name = name.replace(ours, theirs)
        tensors[name] = tensor
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config = {HUB_KEYS.get(key, key): value for key, value in config.items()}
    config |= {"architectures": ["ExaoneForCausalLM"], "model_type": "exaone"}
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = torch.randint(131, (2, TOKENS))
    with torch.no_grad():
        wanted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()(tokens).logits
    torch.testing.assert_close(logits_of_ours(tmp_path, tokens), wanted, rtol=0, atol=1e-4)
    assert read_config(tmp_path).rotary_base == 500000.0


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("neox", "hidden_act", "swish"),
        ("neox", "rotary_pct", "a quarter"),
        ("neox", "use_parallel_residual", 1),
        ("gptj", "rotary_dim", 7),
        ("gptj", "rotary_dim", None),
        ("phi", "qk_layernorm", True),
        ("phi", "num_key_value_heads", 2),
        ("opt", "word_embed_proj_dim", 24),
        ("opt", "do_layer_norm_before", False),
        ("opt", "activation_function", "silu"),
        ("bloom", "apply_residual_connection_post_layernorm", True),
        ("bloom", "n_head", 5),
        ("gemma", "use_bidirectional_attention", True),
        ("gemma2", "layer_types", ["full_attention", "full_attention", "sliding_attention"]),
        ("gemma2", "sliding_window", None),
        ("gemma3", "attn_logit_softcapping", 50.0),
        ("gemma3", "rope_parameters", {"rope_theta": 10000.0}),
        ("phi3", "rope_scaling", {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}),
        ("exaone4", "layer_types", ["full_attention"] * 3),
        ("exaone4", "sliding_window", "wide"),
    ],
)
def test_setting_that_is_not_built_is_refused_by_its_name(name: str, key: str, value: Any, tmp_path: Path) -> None:
    CONFIGS[name].save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = {**json.loads(path.read_text()), "architectures": [ARCHITECTURES[CONFIGS[name].model_type]]}
    path.write_text(json.dumps({**config, key: value}))
    if key == "rotary_pct":  # what the other object says goes before it
        path.write_text(json.dumps({**config, key: value, "rope_parameters": None}))
    with pytest.raises(ModelError, match=rf"{key}|rope parameters|longrope"):
        read_config(tmp_path)
