"""Root-mean-square norm (Zhang and Sennrich, arXiv 1910.07467)."""

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
