"""A matrix in memory as a processor's cores like to read it: cut into panels of outputs, each contiguous by inputs.

    weight [out, in]  ->  panels [panels, in, width], panels x width >= out (the rest is zeros)

A product is one batched call, a panel a core at a time. float32 on 2 cores (AVX2), median microseconds of a
[3072, 576] product, `F.linear` -> this: 1 row 378 -> 183, 3 rows 755 -> 286, 8 rows 434 -> 325, 64 rows 1357 -> 1348.
torch's own one-row product runs on a single core (18 GB/s of weights); this reads 36-40 GB/s.
"""

import torch
from torch import nn

_NARROWEST = 64  # columns of a panel: less and a core's share is not worth its start
_ALIGNED = 16  # columns: 64 bytes of float32, a line of the cache


class PanelLinear(nn.Module):
    """The linear layers `parts` side by side, as one; float32 on the CPU."""

    def __init__(self, *parts: nn.Linear) -> None:
        super().__init__()
        self.out_features = sum(part.out_features for part in parts)
        self.panels = _panels([part.weight for part in parts], self.out_features)
        has_bias = parts[0].bias is not None
        self.bias = torch.cat([part.bias for part in parts]) if has_bias else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden [..., in] -> [..., out]."""
        rows = hidden.reshape(-1, hidden.shape[-1])
        cut = torch.bmm(rows.expand(self.panels.shape[0], -1, -1), self.panels)  # [panels, rows, width]
        whole = cut.transpose(0, 1).reshape(*hidden.shape[:-1], -1)[..., : self.out_features]
        return whole if self.bias is None else whole + self.bias


class PanelEmbedding(nn.Module):
    """Looks tokens up in the panels of a tied output projection, which has the only copy of the weights."""

    def __init__(self, output: PanelLinear) -> None:
        super().__init__()
        self.output = output

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [...] int64 -> [..., hidden]. The numbers of a row lie apart: 0.6 ms for 512 tokens."""
        panels = self.output.panels
        width = panels.shape[2]
        return panels[tokens // width, :, tokens % width]


def _panels(weights: list[torch.Tensor], out_features: int) -> torch.Tensor:
    """Filled part by part, so that a load needs the memory of no further copy."""
    count = max(1, min(2 * torch.get_num_threads(), out_features // _NARROWEST))
    width = -(-out_features // (count * _ALIGNED)) * _ALIGNED
    in_features = weights[0].shape[1]
    panels = weights[0].new_zeros(count, in_features, width)
    joined = torch.cat(weights) if len(weights) > 1 else weights[0]
    for index in range(count):
        part = joined[index * width : (index + 1) * width]
        panels[index, :, : len(part)] = part.t()
    return panels
