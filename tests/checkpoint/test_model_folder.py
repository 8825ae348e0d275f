"""Model folders that hanbit writes and reads: whole or not at all, one shard at a time, nothing of others removed."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from hanbit.checkpoint import model_weights, weight_file
from hanbit.checkpoint.model_folder import load_model, read_config, read_tensors, save_model
from hanbit.checkpoint.weight_file import WeightFiles
from hanbit.common.errors import ModelError
from hanbit.common.manifest import read_manifest, verify
from hanbit.config.model import ModelConfig
from hanbit.tokenizers.train import save as save_tokenizer
from hanbit.tokenizers.train import train
from tests.checkpoint.model_folders import GPT, LLAMA, foreign_folder, numbers


@pytest.mark.parametrize("config", [LLAMA, GPT], ids=lambda config: config.family)
def test_what_is_saved_is_read_bit_by_bit_and_listed_in_a_manifest(tmp_path: Path, config: ModelConfig) -> None:
    save_model(tmp_path / "m", config, numbers(config), None, facts={"parents": ["step-000001"]})
    assert read_config(tmp_path / "m") == config
    found = read_tensors(tmp_path / "m")
    assert len(found) == len(numbers(config))
    assert all(torch.equal(found[name], tensor) for name, tensor in numbers(config).items())
    manifest = read_manifest(tmp_path / "m", "model", ModelError)
    verify(tmp_path / "m", manifest, ModelError)
    assert manifest["parents"] == ["step-000001"]
    assert set(manifest["files"]) == {path.name for path in (tmp_path / "m").iterdir()} - {"hanbit.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_gpt_stores_query_key_value_side_by_side_and_transposed(tmp_path: Path) -> None:
    foreign_folder(tmp_path / "m", GPT)
    ours = numbers(GPT)
    stored = load_file(tmp_path / "m/model.safetensors")["transformer.h.1.attn.c_attn.weight"]
    for place, name in enumerate(("query", "key", "value")):
        weight = ours[f"layers.1.attention.{name}.weight"]
        for row, column in ((0, 0), (3, 11), (15, 2)):
            assert stored[column, 16 * place + row] == weight[row, column]


class Lazy(Mapping[str, torch.Tensor]):
    """Counts what has been read."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.tensors, self.read = tensors, 0

    def __getitem__(self, name: str) -> torch.Tensor:
        self.read += 1
        return self.tensors[name].clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


@pytest.mark.parametrize("config", [LLAMA, GPT], ids=lambda config: config.family)
def test_shards_are_read_one_at_a_time_and_load_as_one_file_does(
    tmp_path: Path, monkeypatch, config: ModelConfig
) -> None:
    monkeypatch.setattr(model_weights, "SHARD_BYTES", 4000)
    read_before_shard, lazy = [], Lazy(numbers(config))
    write = WeightFiles.write

    def counted(*arguments) -> None:
        read_before_shard.append(lazy.read)
        write(*arguments)

    monkeypatch.setattr(WeightFiles, "write", counted)
    save_model(tmp_path / "m", config, lazy, None, facts={})
    assert len(read_before_shard) > 2
    assert read_before_shard == sorted(set(read_before_shard))
    index = json.loads((tmp_path / "m/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in lazy.tensors.values())
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "m" / file)
    assert all(torch.equal(read_tensors(tmp_path / "m")[name], lazy.tensors[name]) for name in lazy)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32)
    assert torch.equal(theirs.get_input_embeddings().weight, lazy.tensors["embedding.weight"])


def test_dtype_of_a_folder_is_what_was_given_and_loading_casts(tmp_path: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in numbers(LLAMA).items()}
    save_model(tmp_path / "m", LLAMA, tensors, None, facts={})
    assert json.loads((tmp_path / "m/config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").dtype == torch.bfloat16
    weight = load_model(tmp_path / "m").get_parameter("layers.0.mlp.up.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, tensors["layers.0.mlp.up.weight"].float())


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "dtype"])
def test_tensors_of_another_model_are_not_saved(tmp_path: Path, fault: str) -> None:
    tensors = numbers(LLAMA)
    name = "layers.1.mlp.up.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "unknown":
        tensors["layers.2.mlp.up.weight"] = tensors[name]
    else:
        tensors[name] = tensors[name].T if fault == "shape" else tensors[name].double()
    with pytest.raises(ModelError, match=r"cannot save the model: .*layers\.[12]\.mlp\.up\.weight"):
        save_model(tmp_path / "m", LLAMA, tensors, None, facts={})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refusing", ["pwrite", "fsync"])
def test_full_disk_keeps_the_former_model_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch, refusing: str
) -> None:
    save_model(tmp_path / "m", LLAMA, numbers(LLAMA), None, facts={})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weight_file.os, refusing, full)
    with pytest.raises(ModelError, match=r"No space left.*What was there before is kept"):
        save_model(tmp_path / "m", GPT, numbers(GPT), None, facts={})
    assert read_config(tmp_path / "m") == LLAMA
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_model_of_ours_is_replaced_and_folders_of_others_are_not(tmp_path: Path) -> None:
    save_model(tmp_path / "m", LLAMA, numbers(LLAMA), None, facts={})
    save_model(tmp_path / "m", GPT, numbers(GPT), None, facts={})
    assert read_config(tmp_path / "m") == GPT
    (tmp_path / "m/notes.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"also holds notes.txt, which would be lost"):
        save_model(tmp_path / "m", LLAMA, numbers(LLAMA), None, facts={})
    assert (tmp_path / "m/notes.txt").read_text() == "mine"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.jpg").write_bytes(b"x")
    for target in (tmp_path / "photos", tmp_path / "photos/one.jpg", foreign_folder(tmp_path / "foreign")):
        with pytest.raises(ModelError, match="is not a model made by hanbit and will not be replaced"):
            save_model(target, LLAMA, numbers(LLAMA), None, facts={})
    assert (tmp_path / "photos/one.jpg").read_bytes() == b"x"


def test_save_that_stopped_between_its_two_renames_is_told(tmp_path: Path) -> None:
    save_model(tmp_path / "m", LLAMA, numbers(LLAMA), None, facts={})
    (tmp_path / "m").rename(tmp_path / ".m.old")
    with pytest.raises(ModelError, match=r"rename .*\.m\.old to m to have the former model"):
        read_config(tmp_path / "m")


def test_single_flipped_bit_of_the_weights_is_noticed(tmp_path: Path) -> None:
    save_model(tmp_path / "m", LLAMA, numbers(LLAMA), None, facts={})
    path = tmp_path / "m/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match="does not have the SHA-256"):
        load_model(tmp_path / "m")


def test_digit_changed_in_a_config_is_noticed_and_the_way_out_works(tmp_path: Path) -> None:
    save_model(tmp_path / "m", LLAMA, numbers(LLAMA), None, facts={})
    path = tmp_path / "m/config.json"
    path.write_text(path.read_text().replace("10000.0", "10001.0"))
    with pytest.raises(ModelError, match=r"if it was changed on purpose, remove hanbit.json"):
        load_model(tmp_path / "m")
    (tmp_path / "m/hanbit.json").unlink()
    load_model(tmp_path / "m")


@pytest.mark.parametrize("entry", [5, {}, None])
def test_manifest_that_says_nonsense_is_refused(tmp_path: Path, entry: object) -> None:
    save_model(tmp_path / "m", LLAMA, numbers(LLAMA), None, facts={})
    path = tmp_path / "m/hanbit.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["config.json"] = entry
    path.write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"hanbit.json is damaged"):
        load_model(tmp_path / "m")


def test_model_card_is_its_owners_to_edit(tmp_path: Path) -> None:
    save_model(tmp_path / "m", LLAMA, numbers(LLAMA), None, facts={})
    text = (tmp_path / "m/README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    (tmp_path / "m/README.md").write_text(text.replace("tags:", "license: apache-2.0\ntags:"))
    load_model(tmp_path / "m")


def test_tokenizer_goes_along_and_its_ends_are_the_models(tmp_path: Path) -> None:
    tokenizer_folder = tmp_path / "tokenizer"
    tokenizer_folder.mkdir()
    save_tokenizer(train(["a few words and a few more"] * 9, 300), tokenizer_folder)
    config = LLAMA.model_copy(update={"vocabulary": 300})
    save_model(tmp_path / "m", config, numbers(config), tokenizer_folder, facts={})
    theirs = AutoTokenizer.from_pretrained(tmp_path / "m")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "m").config.eos_token_id == theirs.eos_token_id is not None
    assert GenerationConfig.from_pretrained(tmp_path / "m").eos_token_id == theirs.eos_token_id


@pytest.mark.parametrize("config", [LLAMA, GPT], ids=lambda config: config.family)
def test_model_without_a_tokenizer_has_no_end_token_by_default(tmp_path: Path, config: ModelConfig) -> None:
    save_model(tmp_path / "m", config, numbers(config), None, facts={})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert theirs.config.eos_token_id is theirs.generation_config.eos_token_id is None


@pytest.mark.parametrize("config", [LLAMA, GPT], ids=lambda config: config.family)
def test_names_without_their_prefix_and_old_constants_are_read(tmp_path: Path, config: ModelConfig) -> None:
    folder = foreign_folder(tmp_path / "m", config)
    prefix = "model." if config is LLAMA else "transformer."
    constant = "layers.0.self_attn.rotary_emb.inv_freq" if config is LLAMA else "h.0.attn.bias"
    stored = {name.removeprefix(prefix): tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file({**stored, constant: torch.zeros(2)}, folder / "model.safetensors")
    found = read_tensors(folder)
    assert all(torch.equal(found[name], tensor) for name, tensor in numbers(config).items())
