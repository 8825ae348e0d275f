"""Matrices in panels multiply and look up as torch's own layers do."""

import pytest
import torch
from torch import nn

from hanbit.engine.panels import PanelEmbedding, PanelLinear


@pytest.mark.parametrize("rows", [(1,), (3,), (2, 5), (1, 1)])
@pytest.mark.parametrize("outs", [(64,), (403,), (576, 192, 192), (7,)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_equal_those_of_the_parts_side_by_side(
    rows: tuple[int, ...], outs: tuple[int, ...], bias: bool
) -> None:
    torch.manual_seed(0)
    parts = [nn.Linear(48, out, bias=bias) for out in outs]
    hidden = torch.randn(*rows, 48)
    with torch.no_grad():
        wanted = torch.cat([part(hidden) for part in parts], dim=-1)
        torch.testing.assert_close(PanelLinear(*parts)(hidden), wanted, rtol=1e-5, atol=1e-5)


def test_the_tied_embedding_reads_the_same_rows() -> None:
    output = nn.Linear(48, 403, bias=False)
    tokens = torch.tensor([[0, 1, 402], [63, 64, 200]])
    with torch.no_grad():
        found = PanelEmbedding(PanelLinear(output))(tokens)
        assert torch.equal(found, nn.functional.embedding(tokens, output.weight))
