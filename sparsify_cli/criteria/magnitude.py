"""Absolute value of the weight.

Comparable across tensors as far as their scales are.

Source: Han et al. 2015, arXiv 1506.02626; Hoefler et al. 2021, arXiv 2102.00554, section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Magnitude(LayerwiseCriterion):
    """Score = |w|, in the unit and dtype of the weight."""

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """|w|, same shape as `weight`, higher = keep."""
        return weight.detach().abs()
