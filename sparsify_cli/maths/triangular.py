"""The inverse of an upper triangular matrix, by halves.

    [A B]^-1   [A^-1  -A^-1 B C^-1]
    [0 C]    = [0          C^-1   ]

Two products a level, 2/3 n^3 operations in all at the rate of a product; solving against the identity takes n^3 at a lower rate.

Source: Golub and Van Loan, Matrix Computations, section 3.1 (block substitution); as accurate as substitution for factors of
damped Gram matrices (Du Croz and Higham 1992, Stability of methods for matrix inversion).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

LEAF = 128
"""Rows at which halving stops."""


def upper_inverse(upper: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """The inverse, upper triangular; what is below the diagonal is not looked at, and the diagonal must not hold a zero."""
    inverse = torch.zeros_like(upper)
    _invert(upper, inverse)
    return inverse


def _invert(upper: Tensor, inverse: Tensor) -> None:
    half = len(upper) // 2
    if len(upper) <= LEAF:
        identity = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
        inverse.copy_(torch.linalg.solve_triangular(upper, identity, upper=True))
        return
    _invert(upper[:half, :half], inverse[:half, :half])
    _invert(upper[half:, half:], inverse[half:, half:])
    torch.matmul(inverse[:half, :half] @ upper[:half, half:], -inverse[half:, half:], out=inverse[:half, half:])
