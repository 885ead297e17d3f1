"""Slow, obvious references: brute force and finite differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations

import torch
from torch import Tensor


def every_mask(n: int, kept: int) -> Iterator[Tensor]:
    """Every boolean mask of n places that keeps exactly `kept`; n choose kept of them."""
    for places in combinations(range(n), kept):
        mask = torch.zeros(n, dtype=torch.bool)
        mask[list(places)] = True
        yield mask


def best_total(scores: Tensor, kept: int, *, legal: Callable[[Tensor], bool] | None = None) -> float:
    """The largest sum of scores that any legal mask keeping exactly `kept` reaches, by trying all of them.

    Args:
        scores: any shape, few elements (n choose kept masks are tried).
        kept: how many stay.
        legal: what a flat mask must satisfy, e.g. a pattern.

    Raises:
        ValueError: no mask is legal.
    """
    flat = scores.reshape(-1).double()
    return max(float(flat[mask].sum()) for mask in every_mask(flat.numel(), kept) if legal is None or legal(mask))


def finite_difference_gradient(function: Callable[[Tensor], Tensor], at: Tensor, *, step: float = 1e-5) -> Tensor:
    """Gradient of a scalar function by central differences, float64; error of order step**2."""
    at = at.detach().double()
    gradient = torch.zeros_like(at)
    for i in range(at.numel()):
        nudge = torch.zeros(at.numel(), dtype=torch.float64)
        nudge[i] = step
        ahead, behind = function(at + nudge.reshape(at.shape)), function(at - nudge.reshape(at.shape))
        gradient.view(-1)[i] = (ahead - behind) / (2 * step)
    return gradient


def finite_difference_hessian(function: Callable[[Tensor], Tensor], at: Tensor, *, step: float = 1e-4) -> Tensor:
    """Hessian of a scalar function of a vector by differences of gradients, float64, [n, n]."""
    at = at.detach().double()
    unit = torch.eye(at.numel(), dtype=torch.float64) * step
    ahead = [finite_difference_gradient(function, at + e, step=step) for e in unit]
    behind = [finite_difference_gradient(function, at - e, step=step) for e in unit]
    return (torch.stack(ahead) - torch.stack(behind)) / (2 * step)
