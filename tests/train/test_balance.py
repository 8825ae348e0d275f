"""The losses of routers in training against transformers' own, computed on a model that it loads."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func
from transformers.models.switch_transformers.modeling_switch_transformers import router_z_loss_func

from hanbit.checkpoint.model_folder import save_model
from hanbit.config.load import load_recipe
from hanbit.config.resolve import resolve
from hanbit.parallel.grid import make_grid
from hanbit.parallel.pieces import local_gradient
from hanbit.train.loop import next_batch, one_step
from hanbit.train.run import build
from tests.train.recipes import tiny_run

COEFFICIENT, Z_COEFFICIENT = 0.7, 0.3  # so large that they show in the gradient
MIXTURE = ["model.family=mixture", "model.experts=4", "model.tied=false"]
MIXTURE += [f"model.balance_coefficient={COEFFICIENT}", f"model.z_coefficient={Z_COEFFICIENT}"]


def test_their_values_and_gradient_are_means_over_layers_and_micro_batches(tmp_path: Path) -> None:
    overrides = [*tiny_run(tmp_path), *MIXTURE, "optimizer.clip_grad_norm=null", "batch.micro_batch=2"]
    recipe = resolve(load_recipe("llama/base", overrides).recipe, world_size=1, vocabulary=None, device="cpu").recipe
    training = build(recipe, make_grid(1, 1, 1, torch.device("cpu")))
    save_model(tmp_path / "start", recipe.model, training.model.parameters, None, facts={})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "start", dtype=torch.float32)
    batch = next_batch(training)
    balances, zs, losses = [], [], []
    for tokens, targets in zip(batch["tokens"].split(2), batch["targets"].split(2), strict=True):
        found = theirs(tokens, output_router_logits=True)
        losses.append(F.cross_entropy(found.logits.flatten(0, 1), targets.flatten(), reduction="sum"))
        balances += [load_balancing_loss_func((logits,), 4, 2) for logits in found.router_logits]
        zs += [router_z_loss_func(logits[None]) for logits in found.router_logits]
    assert len(losses) > 1
    balance, z = torch.stack(balances).mean(), torch.stack(zs).mean()
    loss = torch.stack(losses).sum() / batch["targets"].numel()
    (loss + COEFFICIENT * balance + Z_COEFFICIENT * z).backward()

    numbers, _ = one_step(training)
    assert numbers["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert numbers["load_balancing_loss"] == pytest.approx(balance.item(), rel=1e-5)
    assert numbers["router_z_loss"] == pytest.approx(z.item(), rel=1e-5)
    for index in range(recipe.model.layers):
        ours = local_gradient(training.model.parameters[f"layers.{index}.mlp.router.weight"])
        wanted = theirs.model.layers[index].mlp.gate.weight.grad
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-7)
