"""Matrix products in FP8 by torchao: each tensor scaled by its largest value, e4m3 forward, e5m2 gradients.

Weights stay float32 and are cast for each product (torchao.float8, tensorwise and dynamic). Only the blocks' layers:
the embedding and the output stay in bf16.
"""

from torch import nn

from hanbit.common.errors import ConfigError

_MULTIPLE = 16  # of both sizes, as the hardware's products want


def check_fp8() -> None:
    """Before any work starts: is the extra installed?"""
    try:
        import torchao.float8  # noqa: F401
    except ImportError as problem:
        raise ConfigError(
            f'training.precision=fp8 needs the extra: pip install "hanbit[fp8]" ({problem}); or use bf16'
        ) from None


def compute_in_fp8(block: nn.Module) -> None:
    """Replace the linear layers of `block` whose sizes fit; their parameters and names stay."""
    from torchao.float8 import convert_to_float8_training

    convert_to_float8_training(block, module_filter_fn=_fits)


def _fits(module: nn.Module, name: str) -> bool:
    return isinstance(module, nn.Linear) and not (module.in_features % _MULTIPLE or module.out_features % _MULTIPLE)
