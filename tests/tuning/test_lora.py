"""One LoRA step against a plain torch loop over peft's own modules; frozen stays frozen; rules of the plan."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F

from hanbit.common.errors import ConfigError
from hanbit.config.load import load_recipe
from hanbit.config.model import LlamaConfig
from hanbit.config.recipe import Recipe
from hanbit.config.resolve import resolve
from hanbit.formats.peft import Adapter, write_adapter
from hanbit.models.plan import Word
from hanbit.models.registry import family_of
from hanbit.parallel.grid import make_grid
from hanbit.train.adapter import model_of
from hanbit.train.loop import next_batch, one_step
from hanbit.train.run import build
from hanbit.train.setup import Training
from hanbit.tuning.lora import add_lora, initial_matrix, is_lora
from tests.engine.folders import theirs_of
from tests.models.shapes import SMALL
from tests.tuning.runs import tuning_recipe

HALF = ["tuning.targets=[output, up, down]"]


def resolved(path: Path, overrides: list[str]) -> Recipe:
    loaded = load_recipe(path, overrides, environment={}, model_of=model_of)
    return resolve(loaded.recipe, world_size=1, vocabulary=400, device="cpu").recipe


def started(path: Path, overrides: list[str]) -> Training:
    """With B away from zero, so that A has a gradient."""
    training = build(resolved(path, overrides), make_grid(1, 1, 1, torch.device("cpu")))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, parameter in training.model.trained.items():
            if name.endswith("lora.b"):
                parameter.normal_(0, 0.1)
    return training


def adapter_of(training: Training) -> Adapter:
    parameters = {name: p.detach().clone() for name, p in training.model.trained.items()}
    layers = {name.removesuffix(".lora.a") for name in parameters if name.endswith(".lora.a")}
    matrices = {name: (parameters[f"{name}.lora.a"], parameters[f"{name}.lora.b"]) for name in sorted(layers)}
    return Adapter("adapter", 2.0, matrices)  # alpha 8 / rank 4


@pytest.mark.parametrize(("base", "overrides"), [("llama", []), ("qwen2 tied", []), ("gpt2", HALF)])
def test_a_step_equals_a_plain_loop_over_pefts_modules(base: str, overrides: list[str], tmp_path: Path) -> None:
    training = started(tuning_recipe(tmp_path, base), overrides)
    config = training.recipe.model
    write_adapter(tmp_path / "adapter", adapter_of(training), config, "base", {})
    theirs = PeftModel.from_pretrained(theirs_of(tmp_path / "base"), tmp_path / "adapter", is_trainable=True)
    learning = {name: p for name, p in theirs.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(learning.values(), lr=1e-2, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1)
    for _ in range(2):
        batch = next_batch(training)
        logits = theirs(batch["tokens"]).logits
        loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(learning.values(), 1.0)
        optimizer.step()
        numbers, _ = one_step(training)
        assert numbers["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert numbers["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    ours = training.model.trained
    assert len(ours) == len(learning)
    source_of = family_of(config).huggingface.source_of
    for name, parameter in ours.items():
        layer, _, letter = name.rpartition(".lora.")
        path = source_of(f"{layer}.weight", config).name.removesuffix(".weight")
        same = learning[f"base_model.model.{path}.lora_{letter.upper()}.default.weight"]
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0
        # By whole tensors: Adam's first step turns the rounding of a gradient near zero into a share of the step
        assert (parameter.grad - same.grad).norm() <= 3e-4 * same.grad.norm()
        assert (parameter - same).norm() <= 1e-4 * same.norm()


def test_the_base_has_no_gradient_no_state_and_does_not_move(tmp_path: Path) -> None:
    training = started(tuning_recipe(tmp_path), [])
    frozen = {name: p for name, p in training.model.parameters.items() if not is_lora(name)}
    before = {name: p.detach().clone() for name, p in frozen.items()}
    one_step(training)
    assert all(p.grad is None and not p.requires_grad for p in frozen.values())
    assert all(torch.equal(p, before[name]) for name, p in frozen.items())
    assert set(training.optimizer.first_moment) == set(training.model.parameters) - set(frozen)


def test_additions_to_the_plan_name_every_matrix_once_with_the_word_that_its_layer_asks_for() -> None:
    config = model_config()
    family = family_of(config)
    with torch.device("meta"):
        model = family.build(config)
    plan = add_lora(model, family.plan, 2, 1.0, None)
    words = {name: plan.rule_of(name).word for name, _ in model.named_parameters()}
    first = {name.removeprefix("layers.0."): word for name, word in words.items() if name.startswith("layers.0.")}
    assert first["attention.query.lora.a"] is Word.SHARED
    assert first["attention.query.lora.b"] is Word.COLUMN
    assert plan.rule_of("layers.0.attention.key.lora.b").unit == "key_value_heads"
    assert first["mlp.down.lora.a"] is Word.ROW
    assert first["mlp.down.lora.b"] is Word.SHARED
    assert sum(is_lora(name) for name in words) == 2 * 7 * config.layers


def test_a_layer_that_the_family_has_not_is_refused() -> None:
    config = model_config()
    with torch.device("meta"):
        model = family_of(config).build(config)
    with pytest.raises(ConfigError, match=r"gates, which this model has not. It has down, gate"):
        add_lora(model, family_of(config).plan, 2, 1.0, ["gates"])


def model_config() -> LlamaConfig:
    return LlamaConfig(
        family="llama", layers=2, hidden=SMALL["hidden_size"], heads=4, key_value_heads=2, head_dim=12, inner=80,
        vocabulary=131, context=64,
    )  # fmt: skip


def test_fresh_matrices_depend_on_seed_and_name_alone() -> None:
    a = initial_matrix("layers.0.mlp.up.lora.a", (4, 64), 1)
    assert torch.equal(a, initial_matrix("layers.0.mlp.up.lora.a", (4, 64), 1))
    assert not torch.equal(a, initial_matrix("layers.1.mlp.up.lora.a", (4, 64), 1))
    assert not torch.equal(a, initial_matrix("layers.0.mlp.up.lora.a", (4, 64), 2))
    assert 0.1 < a.abs().max() <= 1 / 8  # peft: kaiming uniform with a = sqrt(5)
    assert initial_matrix("layers.0.mlp.up.lora.b", (64, 4), 1).abs().max() == 0
