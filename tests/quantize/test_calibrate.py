"""GPTQ beside the paper's formula as a slow loop, AWQ's folding beside the float model, and what both are worth."""

import copy

import pytest
import torch

from hanbit.checkpoint.block_names import matrix_names
from hanbit.checkpoint.model_weights import empty_model
from hanbit.config.model import ExaoneConfig, GemmaConfig, LlamaConfig, ModelConfig, NeoXConfig, OPTConfig
from hanbit.models.initial import initial_value
from hanbit.models.layers.attend import causal
from hanbit.models.layers.decoder import Decoder
from hanbit.quantize.awq import best_scale, folds, output_error
from hanbit.quantize.calibrate import ENDS, calibrated
from hanbit.quantize.gptq import DAMPING, gptq
from hanbit.quantize.groups import Scheme, best_scales, codes_of, rounded

SHAPE = {"layers": 2, "hidden": 64, "heads": 4, "inner": 96, "vocabulary": 131, "context": 64}
FAMILIES: dict[str, ModelConfig] = {
    "llama": LlamaConfig(family="llama", key_value_heads=2, head_dim=16, **SHAPE),
    "llama, as many key heads, biases": LlamaConfig(
        family="llama", key_value_heads=4, head_dim=16, query_key_value_bias=True, mlp_bias=True, **SHAPE
    ),
    "gemma": GemmaConfig(family="gemma", key_value_heads=2, head_dim=16, **SHAPE),
    "exaone": ExaoneConfig(family="exaone", key_value_heads=4, head_dim=16, **SHAPE),
    "neox": NeoXConfig(family="neox", shared_norm=True, **SHAPE),
    "opt": OPTConfig(family="opt", **SHAPE),
}
SCHEMES = [Scheme(4, 32), Scheme(4, 64, is_symmetric=False), Scheme(8, 32)]


def inputs(columns: int, tokens: int = 400, seed: int = 0) -> torch.Tensor:
    """Channels that go together, and two that are large."""
    random = torch.Generator().manual_seed(seed)
    found = torch.randn(tokens, 16, generator=random) @ torch.randn(16, columns, generator=random)
    found += 0.3 * torch.randn(tokens, columns, generator=random)
    found[:, 5] *= 20
    found[:, 50] *= 8
    return found


def weights(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(9)) * 0.05


def model_of(config: ModelConfig) -> Decoder:
    model = empty_model(config).to_empty(device="cpu")
    model.tie()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(initial_value(config, name, tuple(parameter.shape), seed=1))
            if parameter.dim() == 1:  # norms and biases that are neither one nor zero
                parameter.add_(torch.rand(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.5)
            else:
                parameter.mul_(3)
    return model.eval().requires_grad_(False)


def logits(model: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(tokens.shape[1])
    return model.head(model.trunk(model.embed(tokens, positions), positions, causal()))


def schemes_of(model: Decoder, scheme: Scheme) -> dict[str, Scheme]:
    names = matrix_names({name: tuple(one.shape) for name, one in model.named_parameters()})
    return {name: Scheme(8, 32) if name in ENDS else scheme for name in names}


def slow_gptq(numbers: torch.Tensor, products: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Equations 2 and 3 of the paper: after each column its error goes into the others by the inverse of H, and the
    column is taken out of the inverse. float64."""
    numbers, damped = numbers.double().clone(), products.double().clone()
    damped += DAMPING * damped.diagonal().mean() * torch.eye(len(damped))
    whole = torch.linalg.inv(damped)
    inverse, own = whole.clone(), []
    for column in range(numbers.shape[1]):  # what each column loses for an error of one, once those before are fixed
        own.append(1 / float(inverse[column, column]))
        inverse = inverse - inverse[:, column : column + 1] @ inverse[column : column + 1] / inverse[column, column]
    inverse = whole
    for column in range(numbers.shape[1]):
        if column % scheme.group == 0:
            ahead = slice(column, column + scheme.group)
            importance = torch.tensor(own[ahead])[None]
            scales, least = best_scales(numbers[:, ahead].float(), scheme, importance)
        code = codes_of(numbers[:, column].float(), scheme, scales, least)
        error = (numbers[:, column] - (code * scales + least)) / inverse[column, column]
        numbers[:, column + 1 :] -= error[:, None] * inverse[column, column + 1 :]
        numbers[:, column] = code * scales + least
        inverse = inverse - inverse[:, column : column + 1] @ inverse[column : column + 1] / inverse[column, column]
    return numbers.float()


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_gptq_is_the_papers_loop(scheme: Scheme) -> None:
    """A number that float32 leaves halfway between two codes may fall the other way; what follows it then differs."""
    x, numbers = inputs(192), weights(24, 192)
    found, wanted = gptq(numbers, x.T @ x, scheme).numbers(), slow_gptq(numbers, x.T @ x, scheme)
    assert float((found - wanted).abs().gt(1e-6).float().mean()) < 0.02
    errors = [output_error(numbers, one, x.T @ x) for one in (found, wanted)]
    assert errors[0] == pytest.approx(errors[1], rel=0.02)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_outputs_change_less_than_by_rounding_to_nearest(scheme: Scheme) -> None:
    x, numbers = inputs(192), weights(48, 192)
    nearest, chosen = rounded(numbers, scheme).numbers(), gptq(numbers, x.T @ x, scheme).numbers()
    seen = ((x @ (nearest - numbers).T).square().sum(), (x @ (chosen - numbers).T).square().sum())
    assert float(seen[0]) == pytest.approx(output_error(numbers, nearest, x.T @ x), rel=1e-3)
    assert seen[1] < 0.5 * seen[0]


def test_a_column_that_no_input_reaches_is_rounded_to_nearest() -> None:
    x, numbers = inputs(64), weights(8, 64)
    x[:, 40] = 0
    scheme = Scheme(8, 32)
    one = gptq(numbers, x.T @ x, scheme)
    scales = one.scales[:, 1].float()
    assert torch.equal(one.codes[:, 40].float(), codes_of(numbers[:, 40], scheme, scales, torch.zeros(8)))
    assert one.scales.isfinite().all()


def test_scaled_channels_lose_less_and_never_more() -> None:
    x, numbers, scheme = inputs(192), weights(48, 192), Scheme(4, 32, is_symmetric=False)
    products, sizes = x.T @ x, x.abs().mean(0)
    factors = best_scale([numbers], sizes, products, scheme)
    plain = rounded(numbers, scheme, is_searched=False).numbers()
    scaled = rounded(numbers * factors, scheme, is_searched=False).numbers() / factors
    assert output_error(numbers, scaled, products) < 0.7 * output_error(numbers, plain, products)
    even = torch.randn(400, 192, generator=torch.Generator().manual_seed(3))
    factors = best_scale([numbers], even.abs().mean(0), even.T @ even, scheme)
    scaled = rounded(numbers * factors, scheme, is_searched=False).numbers() / factors
    assert output_error(numbers, scaled, even.T @ even) <= output_error(numbers, plain, even.T @ even)


@pytest.mark.parametrize("family", FAMILIES)
def test_folded_scales_leave_the_float_model_as_it_was(family: str) -> None:
    model = model_of(FAMILIES[family])
    tokens = torch.randint(131, (2, 24), generator=torch.Generator().manual_seed(4))
    before, random = logits(model, tokens), torch.Generator().manual_seed(5)
    for block in model.layers.values():
        found = folds(block)
        assert found or family == "neox"
        for fold, names in found:
            parameters = [block.get_parameter(f"{name}.weight") for name in names]
            factors = torch.rand(parameters[0].shape[1], generator=random) + 0.5
            fold(factors)
            for parameter in parameters:
                parameter.mul_(factors)
    torch.testing.assert_close(logits(model, tokens), before, rtol=1e-4, atol=1e-4 * float(before.abs().max()))


@pytest.mark.parametrize("method", ["gptq", "awq"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_calibrated_model_is_made_of_its_codes(family: str, method: str) -> None:
    model = model_of(FAMILIES[family])
    schemes = schemes_of(model, Scheme(4, 32, is_symmetric=False))
    tokens = torch.randint(131, (6, 48), generator=torch.Generator().manual_seed(6))
    before = logits(model, tokens)
    found = calibrated(model, schemes, method, tokens, lambda *_: None)
    assert set(found) == set(schemes)
    for name, one in found.items():
        assert one.scheme == schemes[name]
        assert torch.equal(model.get_parameter(name), one.numbers()), name
    assert float((logits(model, tokens) - before).norm() / before.norm()) < 0.4


def test_gptq_is_nearer_to_the_float_model_than_rounding_to_nearest() -> None:
    config = FAMILIES["llama"]
    model, nearest = model_of(config), model_of(config)
    schemes = schemes_of(model, Scheme(4, 32))
    random = torch.Generator().manual_seed(7)
    tokens, others = torch.randint(131, (24, 64), generator=random), torch.randint(131, (8, 64), generator=random)
    wanted = logits(model, others)
    for name, scheme in schemes.items():
        nearest.get_parameter(name).copy_(rounded(nearest.get_parameter(name), scheme).numbers())
    by_gptq = copy.deepcopy(model)
    calibrated(by_gptq, schemes, "gptq", tokens, lambda *_: None)
    errors = [float((logits(one, others) - wanted).norm()) for one in (by_gptq, nearest)]
    assert errors[0] < 0.9 * errors[1]
