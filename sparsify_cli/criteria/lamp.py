"""Squared weight over the sum of squares of the weights that would outlive it in its tensor.

    score(u) = w_u^2 / sum over v with |w_v| >= |w_u| of w_v^2

Comparable across tensors: with one global ranking the score itself decides each layer's sparsity. The largest weight of a tensor
scores 1, so no layer is emptied before every layer is down to one weight.

Source: Lee et al. 2021, arXiv 2010.07611, equation 4. As there, equal magnitudes are put in an order (here: the earlier position
outlives the later) instead of sharing a score. Differs in that sums are float64 over weights relative to the largest, which
the score does not see and which cannot overflow.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Lamp(LayerwiseCriterion):
    """Layer-adaptive magnitude: score in [0, 1], no unit."""

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """LAMP score, float64, same shape as `weight`, higher = keep; 0 where the weight is zero."""
        sizes, order = weight.detach().abs().flatten().sort(descending=True, stable=True)
        scores = torch.zeros_like(sizes, dtype=torch.float64)
        if sizes.any():
            squares = (sizes.double() / sizes[0].double()).square()
            scores[order] = squares / squares.cumsum(0)
        return scores.reshape(weight.shape)
