"""Our models against transformers' own, fp32, on random small configurations; and back."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hanbit.checkpoint.model_folder import load_model, read_config, read_tensors, save_model
from hanbit.models.layers.attend import causal
from tests.models.shapes import CONFIGS, OTHER_WRITERS, shake

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
