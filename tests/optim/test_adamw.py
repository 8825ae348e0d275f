import torch

from hanbit.optim.adamw import AdamW, Settings


def test_updates_equal_torchs_own_adamw_with_groups() -> None:
    torch.manual_seed(0)
    ours = {"matrix": torch.randn(7, 5), "bias": torch.randn(5)}
    theirs = {name: torch.nn.Parameter(tensor.clone()) for name, tensor in ours.items()}
    optimizer = AdamW(ours, {"matrix"}, Settings((0.9, 0.95), 1e-8, 0.1))
    reference = torch.optim.AdamW(
        [
            {"params": [theirs["matrix"]], "weight_decay": 0.1},
            {"params": [theirs["bias"]], "weight_decay": 0.0},
        ],
        lr=1.0,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    for step in range(6):
        gradients = {name: torch.randn_like(tensor) for name, tensor in ours.items()}
        for group in reference.param_groups:
            group["lr"] = 0.01 * (step + 1)
        for name, parameter in theirs.items():
            parameter.grad = gradients[name].clone()
        optimizer.step(ours, gradients, 0.01 * (step + 1))
        reference.step()
        for name in ours:
            torch.testing.assert_close(ours[name], theirs[name].detach(), rtol=1e-6, atol=1e-7)


def test_parameter_without_gradient_stays() -> None:
    ours = {"a": torch.ones(3, 3), "b": torch.ones(3, 3)}
    optimizer = AdamW(ours, {"a", "b"}, Settings((0.9, 0.95), 1e-8, 0.1))
    optimizer.step(ours, {"a": torch.ones(3, 3)}, 0.1)
    assert torch.equal(ours["b"], torch.ones(3, 3))
    assert not torch.equal(ours["a"], torch.ones(3, 3))
