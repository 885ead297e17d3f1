"""Scores under which weights compete inside their row only: any number of the highest has as many in every row, to within one.

    place   of a weight in its row, 0 = highest; among equal scores the earlier column comes first
    level   of its row among the rows at that place, 0 = highest score there; equal scores share a level
    score   1 - (place * rows + level) / (rows * columns), in (0, 1]

Whole numbers divided by one whole number: different ones stay different in float64. Across tensors, a global ranking keeps
the same share of every row of every tensor, as nearly as counts allow.

Source: none; Wanda's code selects row by row, int(columns * sparsity) in each, which leaves the count of the layer to rounding.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def within_rows(scores: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """Scores of the same order inside each row, and the same number of each row at the top; float64.

    Args:
        scores: not NaN, higher = keep.
    """
    rows, columns = scores.shape
    values, order = scores.sort(dim=1, descending=True, stable=True)
    levels = _levels(values) + torch.arange(columns, device=scores.device) * rows
    return torch.empty_like(scores, dtype=torch.float64).scatter_(1, order, (scores.numel() - levels).double() / max(1, scores.numel()))


def _levels(values: Float[Tensor, "rows columns"]) -> Tensor:
    """In each column, how many different higher values there are."""
    ordered, order = values.T.contiguous().sort(dim=1, descending=True)
    steps = torch.zeros_like(order)
    steps[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    return torch.empty_like(order).scatter_(1, order, steps).T
