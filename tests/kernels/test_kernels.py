"""Each kernel of each instruction set beside torch, at sizes that no vector divides and addresses that none likes."""

import ctypes
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.nn import functional as F

from hanbit.engine.kv_cache import _as_bytes
from hanbit.kernels.blocks import Kind
from hanbit.kernels.build import SOURCES
from hanbit.kernels.library import Native
from hanbit.kernels.structs import LARGEST_INT8, SMALLEST, Kept, Matrix, linear


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    """At an address that is a multiple of 4 and of nothing more."""
    count = torch.Size(shape).numel()
    return torch.randn(count + 1, generator=torch.Generator().manual_seed(seed))[1:].view(shape)


def product(
    native: Native, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None, threads: int = 1
) -> torch.Tensor:
    output = torch.full((len(hidden), len(weight)), float("nan"))
    matrix = Matrix(weight.data_ptr(), Kind.FLOAT32, len(weight))
    layer = linear(weight.shape[1], [matrix], None if bias is None else bias.data_ptr())
    native.library.hanbit_linear(
        native.kernels, ctypes.byref(layer), hidden.data_ptr(), len(hidden), output.data_ptr(), threads
    )
    return output


@pytest.mark.parametrize("rows", [*range(1, 10), 64, 67])
@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (15, 7), (16, 64), (577, 100), (10_007, 3)])
@pytest.mark.parametrize("threads", [1, 2])
def test_linear_layer_is_that_of_torch(kernels: Native, rows: int, inputs: int, outputs: int, threads: int) -> None:
    hidden, weight, bias = numbers(rows, inputs), numbers(outputs, inputs, seed=1), numbers(outputs, seed=2)
    wanted = F.linear(hidden.double(), weight.double(), bias.double()).float()
    found = product(kernels, hidden, weight, bias, threads)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5 * inputs**0.5)


def test_rows_answered_together_have_the_numbers_they_have_alone(kernels: Native) -> None:
    hidden, weight = numbers(131, 577), numbers(65, 577, seed=1)
    alone = torch.cat([product(kernels, row.unsqueeze(0), weight) for row in hidden])
    for rows in (*range(1, 12), 63, 64, 131):
        assert torch.equal(product(kernels, hidden[:rows], weight, threads=2), alone[:rows])


@pytest.mark.parametrize("width", [1, 8, 48, 577])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e4])
def test_norm_is_that_of_torch(kernels: Native, width: int, size: float) -> None:
    hidden, weight, output = numbers(width) * size, numbers(width, seed=1), torch.empty(width)
    kernels.library.hanbit_rms_norm(
        kernels.kernels, hidden.data_ptr(), weight.data_ptr(), 1e-5, width, output.data_ptr()
    )
    torch.testing.assert_close(output, F.rms_norm(hidden, (width,), weight, 1e-5), rtol=2e-6, atol=0)


@pytest.mark.parametrize("half", [1, 6, 32])
def test_rotation_turns_pairs_as_complex_numbers(kernels: Native, half: int) -> None:
    angles, head = numbers(half), numbers(2 * half, seed=1)
    wanted = torch.complex(head[:half], head[half:]) * torch.polar(torch.ones(half), angles)
    cosines, sines, found = angles.cos(), angles.sin(), head.clone()
    kernels.library.hanbit_rotate(kernels.kernels, found.data_ptr(), cosines.data_ptr(), sines.data_ptr(), half)
    torch.testing.assert_close(found, torch.cat((wanted.real, wanted.imag)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("count", [1, 16, 1537])
def test_gated_silu_is_that_of_torch_up_to_where_it_overflows(kernels: Native, count: int) -> None:
    gate, up, output = numbers(count) * 10, numbers(count, seed=1), torch.empty(count)
    gate[-1] = -1000.0  # e^1000 is no number
    kernels.library.hanbit_swiglu(kernels.kernels, gate.data_ptr(), up.data_ptr(), count, output.data_ptr())
    torch.testing.assert_close(output, F.silu(gate) * up, rtol=1e-6, atol=1e-30)


def kept(kernels: Native, heads: torch.Tensor) -> torch.Tensor:
    """[.., head_dim] as int8 and a scale: uint8 [.., head_dim + 4]."""
    head_dim = heads.shape[-1]
    found = torch.zeros(*heads.shape[:-1], head_dim + 4, dtype=torch.uint8)
    for head, into in zip(heads.view(-1, head_dim), found.view(-1, head_dim + 4), strict=True):
        kernels.library.hanbit_keep(kernels.kernels, Kept.INT8, head.data_ptr(), head_dim, into.data_ptr())
    return found


def numbers_kept(found: torch.Tensor) -> torch.Tensor:
    return found[..., :-4].view(torch.int8) * found[..., -4:].contiguous().view(torch.float32)


@pytest.mark.parametrize("kind", Kept)
@pytest.mark.parametrize("head_dim", [7, 16, 64, 80])
@pytest.mark.parametrize(("count", "queries"), [(1, 4), (63, 1), (64, 3), (65, 2), (200, 7)])
def test_attention_carried_on_over_positions_is_that_of_torch(
    kernels: Native, head_dim: int, count: int, queries: int, kind: Kept
) -> None:
    query, cache = numbers(queries, head_dim), numbers(2, count, 3, head_dim, seed=1)
    held = cache
    if kind == Kept.INT8:
        held = kept(kernels, cache)
        cache = numbers_kept(held)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(2))  # positions lie anywhere
    keys, values = cache[0, order, 1], cache[1, order, 1]  # one head of three
    places = (order * 3 + 1) * held.shape[-1] * held.itemsize
    seen = torch.zeros(queries, 2 + head_dim)
    seen[:, 0] = float("-inf")
    for start, end in ((0, count // 3), (count // 3, count)):
        kernels.library.hanbit_attend(
            kernels.kernels, kind, queries, query.data_ptr(), held[0].data_ptr(), held[1].data_ptr(),
            places[start:].data_ptr(), end - start, head_dim, 0.3, seen.data_ptr(),
        )  # fmt: skip
    wanted = (query @ keys.T * 0.3).softmax(1) @ values
    torch.testing.assert_close(seen[:, 2:] / seen[:, 1:2], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head_dim", [7, 64])
def test_head_is_kept_as_the_nearest_of_255_numbers(kernels: Native, head_dim: int) -> None:
    heads = numbers(5, head_dim)
    heads[1], heads[2], heads[3, 0], heads[4, 1] = 0, 1e-35, float("nan"), float("inf")
    found = kept(kernels, heads)
    read = numbers_kept(found)
    assert read[3:].isnan().all(), "what is no number is found by whoever reads it"
    torch.testing.assert_close(read[0], heads[0], rtol=0, atol=float(heads[0].abs().max()) / 127 * 0.5001)
    assert found[0, :-4].view(torch.int8).int().abs().max() == 127
    assert not read[1:3].any()
    by_torch = _as_bytes(heads)  # the engine's other path writes into the same cache
    torch.testing.assert_close(numbers_kept(by_torch), read, rtol=1e-6, atol=0, equal_nan=True)


def test_numbers_become_int8_by_the_same_constants_in_both_languages() -> None:
    header = (SOURCES / "vector.h").read_text()
    for name, value in (("LARGEST_INT8", LARGEST_INT8), ("SMALLEST", SMALLEST)):
        assert [float(found) for found in re.findall(rf"\b{name} = ([0-9.e+-]+)f", header)] == [value]


@pytest.mark.parametrize("count", [1, 31, 1000])
def test_largest_is_the_first_of_them(kernels: Native, count: int) -> None:
    logits = numbers(count)
    logits[count // 2 :: 7] = 9.0

    def largest() -> int:
        return int(kernels.library.hanbit_largest(kernels.kernels, logits.data_ptr(), count))

    assert largest() == count // 2
    for strange in (float("nan"), float("inf")):
        logits[-1] = strange
        assert largest() == -1
    logits.fill_(float("-inf"))
    assert largest() == -1


def test_calls_of_several_threads_take_turns(kernels: Native) -> None:
    weights = [numbers(500, 96, seed=seed) for seed in range(4)]
    hidden = numbers(2, 96, seed=9)
    wanted = [product(kernels, hidden, weight) for weight in weights]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(20):
            found = list(pool.map(lambda weight: product(kernels, hidden, weight, threads=3), weights))
            assert all(map(torch.equal, found, wanted))


def test_forked_process_has_threads_of_its_own(kernels: Native) -> None:
    hidden, weight = numbers(1, 96), numbers(5000, 96, seed=1)
    wanted = product(kernels, hidden, weight, threads=2)
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(product(kernels, hidden, weight, threads=2), wanted) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_set_is_the_one_asked_for_and_on_an_emulated_processor_its_best(
    request: pytest.FixtureRequest, kernels: Native
) -> None:
    assert kernels.instruction_set == request.node.callspec.params["kernels"]
