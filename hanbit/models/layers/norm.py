"""Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467), and Gemma's, whose weight counts from one."""

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dim; the mean in float32 whatever x is."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if hidden.dtype == torch.float32:
            return F.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)
        whole = F.rms_norm(hidden.float(), self.weight.shape, None, self.epsilon)
        return self.weight * whole.to(hidden.dtype)

    @property
    def factor(self) -> torch.Tensor:
        """What a normed row is multiplied with."""
        return self.weight


class ShiftedRMSNorm(RMSNorm):
    """Times 1 + weight, all of it in float32 (Gemma, arXiv 2403.08295)."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden.float(), self.weight.shape, self.factor, self.epsilon).to(hidden.dtype)

    @property
    def factor(self) -> torch.Tensor:
        return 1.0 + self.weight.float()
