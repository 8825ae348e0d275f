"""Which layers compute in FP8, and what is said where torchao is missing. The arithmetic itself needs a card."""

import sys
import types
from typing import Any

import pytest
from torch import nn

from hanbit.common.errors import ConfigError
from hanbit.parallel.fp8 import check_fp8, compute_in_fp8


def test_missing_torchao_is_refused_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ConfigError, match=r'pip install "hanbit\[fp8\]".*or use bf16'):
        check_fp8()


def test_only_linear_layers_of_fitting_sizes_are_handed_to_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []

    def convert(module: nn.Module, *, module_filter_fn: Any) -> nn.Module:
        chosen.extend(name for name, part in module.named_modules() if module_filter_fn(part, name))
        return module

    torchao = types.ModuleType("torchao.float8")
    torchao.convert_to_float8_training = convert  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchao", types.ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.float8", torchao)
    layers = {"wide": nn.Linear(32, 48), "odd": nn.Linear(32, 24), "norm": nn.LayerNorm(32), "up": nn.Linear(16, 160)}
    compute_in_fp8(nn.ModuleDict(layers))
    assert chosen == ["wide", "up"]
