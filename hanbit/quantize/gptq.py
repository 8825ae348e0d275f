"""GPTQ (Frantar et al., arXiv 2210.17323): a matrix is rounded column by column, and what a column loses is made up for
by those that are still to come.

With H the sum of x x' over inputs x and U'U = H^-1 (U upper triangular): the error of column j, (w - rounded w) /
U[j, j], times row j of U, is taken from all later columns. The order of columns stays, for a group's scale lies in its
blocks.
"""

import torch

from hanbit.quantize.groups import Rounded, Scheme, best_scales, codes_of

_BLOCK = 128  # columns whose errors reach the others in one product; a multiple of every group
DAMPING = 0.01  # of the mean of H's diagonal, as in the paper


def gptq(numbers: torch.Tensor, products: torch.Tensor, scheme: Scheme) -> Rounded:
    """numbers: float32 [rows, columns], columns a multiple of the group; products: [columns, columns], the sum of x x'.

    A column whose inputs were all zero is rounded to nearest. Raises ValueError where `products` has no inverse: they
    have to be finite.
    """
    upper = _upper(products)
    numbers, columns = numbers.clone(), numbers.shape[1]
    codes = torch.empty(numbers.shape, dtype=torch.int8)
    scales, least = (numbers.new_empty(len(numbers), columns // scheme.group) for _ in range(2))
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        own, errors = numbers[:, start:end], numbers.new_empty(len(numbers), end - start)
        for column in range(start, end):
            place, group = column - start, column // scheme.group
            if column % scheme.group == 0:
                ahead = slice(place, place + scheme.group)
                weights = upper.diagonal()[column : column + scheme.group].pow(-2).unsqueeze(0)
                scales[:, group], least[:, group] = best_scales(own[:, ahead].contiguous(), scheme, weights)
            scale, low = scales[:, group], least[:, group]
            code = codes_of(own[:, place], scheme, scale, low)
            codes[:, column] = code.to(torch.int8)
            errors[:, place] = (own[:, place] - (code * scale + low)) / upper[column, column]
            own[:, place:] -= errors[:, place, None] * upper[column, column:end]
        numbers[:, end:] -= errors @ upper[start:end, end:]
    return Rounded(scheme, codes, scales.half(), None if scheme.is_symmetric else least.half())


def _upper(products: torch.Tensor) -> torch.Tensor:
    """U, float32; the arithmetic in float64, for H is often nearly singular."""
    damped = products.double().clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1.0
    diagonal += DAMPING * diagonal.mean()
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        return torch.linalg.cholesky(inverse, upper=True).float()
    except torch.linalg.LinAlgError:
        raise ValueError("the products of its inputs have no inverse") from None
