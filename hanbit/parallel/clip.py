"""The gradient norm over all processes, and clipping by it (Pascanu et al., arXiv 1211.5063)."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from hanbit.parallel.apply import ParallelModel
from hanbit.parallel.collectives import Purpose, sum_over_world
from hanbit.parallel.pieces import local_gradient

_ROW = 4096  # numbers that float32 sums to 1e-8


def gradient_norm(model: ParallelModel) -> torch.Tensor:
    """L2 norm of all gradients of the whole model, float64 scalar, the same on every process.

    A piece that several processes hold counts 1 / copies in each of them, so that one sum over the world is right
    for every mixture of cut, sharded, replicated and tied weights.
    """
    squares = torch.zeros((), dtype=torch.float64, device=model.grid.device)
    by_copies: dict[int, list[torch.Tensor]] = {}
    for name, gradient in local_gradients(model).items():
        by_copies.setdefault(model.pieces[name].copies, []).append(gradient)
    for copies, gradients in by_copies.items():
        squares += sum_of_squares(gradients) / copies
    return sum_over_world(squares, Purpose.GRADIENT_NORM).sqrt()


def sum_of_squares(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Of all numbers of the tensors, float64 scalar.

    A CPU adds float32 one after another in a few lanes: the norm of 50 million is 0.4% short. So rows are summed in
    float32 and rows' sums in float64; all in float64 would take fifteen times as long. A GPU adds in a tree.
    """
    if tensors[0].device.type != "cpu":
        return torch.stack(torch._foreach_norm(list(tensors))).double().square().sum()
    total = torch.zeros((), dtype=torch.float64, device=tensors[0].device)
    for tensor in tensors:
        flat = tensor.reshape(-1)
        whole = flat.numel() // _ROW * _ROW
        for rows in (flat[:whole].view(-1, _ROW), flat[whole:].view(1, -1)):
            if rows.numel():
                total += torch.linalg.vector_norm(rows, dim=1, dtype=torch.float32).double().square().sum()
    return total


def clip_gradients(model: ParallelModel, norm: torch.Tensor, limit: float) -> None:
    """Scale all gradients by limit / norm where the norm is above the limit, as torch.nn.utils.clip_grad_norm_ does."""
    scale = min(1.0, limit / (norm.item() + 1e-6))
    if scale < 1.0:
        scale_gradients(model, scale)


def scale_gradients(model: ParallelModel, factor: float) -> None:
    torch._foreach_mul_(list(local_gradients(model).values()), factor)


def local_gradients(model: ParallelModel) -> dict[str, torch.Tensor]:
    """By parameter name; empty shards (FSDP2 gives the last ranks none of a short tensor) are left out."""
    found = {}
    for name, parameter in model.parameters.items():
        gradient = local_gradient(parameter)
        if gradient is not None and gradient.numel() > 0:
            found[name] = gradient
    return found


def norm_of_each(model: ParallelModel) -> dict[str, float]:
    """L2 norm of every parameter's gradient over the whole model, on every process; for proofs, not for each step."""
    squares: dict[str, float] = {}
    for name, gradient in local_gradients(model).items():
        squares[name] = gradient.double().square().sum().item() / model.pieces[name].copies
    everywhere: list[dict[str, float]] = [squares]
    if dist.is_initialized():
        everywhere = [{} for _ in range(dist.get_world_size())]
        dist.all_gather_object(everywhere, squares)
    totals: dict[str, float] = {}
    for part in everywhere:
        for name, square in part.items():
            totals[name] = totals.get(name, 0.0) + square
    return {name: total**0.5 for name, total in sorted(totals.items())}
