"""Adapter folders: ours in `peft`, peft's here, and every kind that would make other numbers refused."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

from hanbit.checkpoint.model_folder import load_model, read_config
from hanbit.common.errors import ModelError
from hanbit.formats.peft import CONFIG, WEIGHTS, Adapter, read_adapter, write_adapter
from hanbit.models.layers.attend import causal
from hanbit.models.layers.decoder import Decoder
from tests.engine.folders import theirs_of
from tests.models.shapes import CONFIGS, shake

TOKENS = torch.arange(20).reshape(2, 10) * 5 % 131


@pytest.fixture(scope="module", params=["llama", "gpt2", "qwen3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[request.param]), dtype=torch.float32)
    shake(model)
    model.save_pretrained(path)
    return path


def random_adapter(folder: Path, words: tuple[str, ...], rank: int = 3, scale: float = 2.0) -> Adapter:
    torch.manual_seed(1)
    modules = load_model(folder).named_modules()
    linears = {n: m for n, m in modules if isinstance(m, nn.Linear) and n.startswith("layers.") and n.endswith(words)}
    layers = {
        name: (0.3 * torch.randn(rank, module.in_features), 0.3 * torch.randn(module.out_features, rank))
        for name, module in linears.items()
    }
    return Adapter("adapter", scale, layers)


def merged_logits(folder: Path, adapter: Adapter) -> torch.Tensor:
    """Ours, with the plain sum W + scale * B A."""
    model = load_model(folder)
    with torch.no_grad():
        for name, (a, b) in adapter.layers.items():
            model.get_submodule(name).weight += adapter.scale * b @ a
    return logits_of(model)


def logits_of(model: Decoder) -> torch.Tensor:
    positions = torch.arange(TOKENS.shape[1])
    with torch.no_grad():
        return model.head(model.trunk(model.embed(TOKENS, positions), positions, causal()))


@pytest.mark.parametrize(
    "words",
    [
        ("query", "key", "value", "output", "gate", "up", "down"),
        ("query", "value"),
        ("attention.output", "mlp.up"),
        ("mlp.down",),
    ],
)
def test_a_folder_of_ours_gives_the_same_logits_in_peft(folder: Path, words: tuple[str, ...], tmp_path: Path) -> None:
    adapter = random_adapter(folder, words)
    write_adapter(tmp_path / "adapter", adapter, read_config(folder), str(folder), {})
    theirs = PeftModel.from_pretrained(theirs_of(folder), tmp_path / "adapter").eval()
    wanted = merged_logits(folder, adapter)
    assert (wanted - logits_of(load_model(folder))).abs().max() > 0.05, "an adapter that changes nothing proves nothing"
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS).logits, wanted, atol=2e-4, rtol=1e-4)
        merged = theirs.merge_and_unload()
        torch.testing.assert_close(merged(TOKENS).logits, wanted, atol=2e-4, rtol=1e-4)
    again = read_adapter(tmp_path / "adapter", read_config(folder))
    for name in set(again.layers) - set(adapter.layers):  # a part of GPT-2's fused matrix that was not trained
        assert again.layers[name][1].abs().max() == 0
    for name, (a, b) in adapter.layers.items():
        torch.testing.assert_close(again.scale * again.layers[name][1] @ again.layers[name][0], adapter.scale * b @ a)


def their_adapter(folder: Path, path: Path, **settings: Any) -> PeftModel:
    torch.manual_seed(2)
    model = get_peft_model(theirs_of(folder), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.2)
    model.save_pretrained(path)
    return model.eval()


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 12},
        {"r": 4, "lora_alpha": 12, "use_rslora": True},
        {"r": 4, "lora_alpha": 4, "rank_pattern": "down", "alpha_pattern": "down"},
        {"r": 2, "lora_alpha": 8, "layers_to_transform": [1]},
    ],
    ids=["plain", "rslora", "patterns", "one layer"],
)
def test_a_folder_of_peft_gives_the_same_logits_here(folder: Path, settings: dict[str, Any], tmp_path: Path) -> None:
    is_gpt = "c_attn" in str(theirs_of(folder))
    down = "mlp.c_proj" if is_gpt else "down_proj"
    settings = {key: {down: 6} if value == "down" else value for key, value in settings.items()}
    targets = ["c_attn", "c_fc", "mlp.c_proj"] if is_gpt else ["q_proj", "k_proj", "o_proj", "up_proj", "down_proj"]
    theirs = their_adapter(folder, tmp_path / "a", target_modules=targets, **settings)
    adapter = read_adapter(tmp_path / "a", read_config(folder))
    assert adapter.name == "a"
    with torch.no_grad():
        wanted = theirs(TOKENS).logits
        base = logits_of(load_model(folder))
    assert (wanted - base).abs().max() > 0.05
    torch.testing.assert_close(merged_logits(folder, adapter), wanted, atol=2e-4, rtol=1e-4)


Spoil = Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def _replace(key: str, tensor: torch.Tensor) -> Spoil:
    return lambda settings, tensors: tensors.update({key: tensor})


REFUSED: dict[str, tuple[Spoil, str]] = {
    "another method": (lambda s, t: s.update(peft_type="IA3"), "peft_type='IA3'.*LORA"),
    "DoRA": (lambda s, t: s.update(use_dora=True), "use_dora"),
    "biases": (lambda s, t: s.update(bias="all"), "bias='all'"),
    "whole modules": (lambda s, t: s.update(modules_to_save=["lm_head"]), "modules_to_save"),
    "a changed base": (lambda s, t: s.update(init_lora_weights="pissa"), "pissa"),
    "an unknown switch": (lambda s, t: s.update(use_magic=True), "use_magic=True is not built"),
    "a code pattern": (lambda s, t: s.update(rank_pattern={"(a+)+$": 4}), "regular expression"),
    "no rank": (lambda s, t: s.pop("r"), "r=None"),
    "rank true": (lambda s, t: s.update(r=True), "r=True"),
    "alpha in words": (lambda s, t: s.update(lora_alpha="many"), "lora_alpha='many'"),
    "another rank": (lambda s, t: s.update(r=5), r"\(3, 48\), model and rank ask for \(5, 48\)"),
    "another width": (_replace(FIRST, torch.zeros(3, 7)), r"\(3, 7\)"),
    "whole numbers": (_replace(FIRST, torch.zeros(3, 48, dtype=torch.int64)), "I64"),
    "half a layer": (lambda s, t: t.pop(FIRST), "no .*lora_A.* other half"),
    "a foreign module": (_replace(FIRST.replace("q_proj", "x_proj"), torch.zeros(3, 48)), "x_proj.*no LoRA matrix"),
    "a layer too many": (_replace(FIRST.replace("layers.0", "layers.7"), torch.zeros(3, 48)), "layers.7"),
    "an embedding": (_replace("base_model.model.model.embed_tokens.lora_embedding_A", torch.zeros(3, 9)), "embed"),
    "nothing": (lambda s, t: t.clear(), "no LoRA matrix"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_make_other_numbers_is_refused_by_name(name: str, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"])).save_pretrained(base)
    write_adapter(tmp_path / "a", random_adapter(base, ("query",)), read_config(base), "base", {})
    (tmp_path / "a/hanbit.json").unlink()
    settings, tensors = json.loads((tmp_path / "a" / CONFIG).read_text()), load_file(tmp_path / "a" / WEIGHTS)
    spoil, words = REFUSED[name]
    spoil(settings, tensors)
    (tmp_path / "a" / CONFIG).write_text(json.dumps(settings))
    save_file(tensors, tmp_path / "a" / WEIGHTS)
    with pytest.raises(ModelError, match=words):
        read_adapter(tmp_path / "a", read_config(base))


def test_damage_is_noticed_and_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS["llama"])).save_pretrained(base)
    config, adapter = read_config(base), random_adapter(base, ("query",))
    with pytest.raises(ModelError, match="not an adapter made by hanbit"):
        write_adapter(base, adapter, config, "base", {})
    with pytest.raises(ModelError, match="not an adapter folder"):
        read_adapter(tmp_path / "nowhere", config)
    write_adapter(tmp_path / "a", adapter, config, "base", {})
    write_adapter(tmp_path / "a", adapter, config, "base", {})  # over its own
    path = tmp_path / "a" / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelError, match="SHA-256"):
        read_adapter(tmp_path / "a", config)
    (tmp_path / "a/hanbit.json").unlink()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ModelError, match="damaged"):
        read_adapter(tmp_path / "a", config)
