"""Absolute value of the weight times the root mean square of its input.

    score_ij = |w_ij| * sqrt(E[x_j^2])

A weight at an input that is never active scores 0. The inputs are those of the network before pruning.

Source: Sun et al. 2023, arXiv 2306.11695, equation 1. Differs: the mean of squares replaces their sum, which leaves the order
within a layer as it is; and scores compete wherever the allocation says (in a layer, or in the whole network), while the
paper compares within each output row.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.maths.matrix_view import from_matrix, to_matrix
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Wanda(LayerwiseCriterion):
    """Weight and activation: score in the unit of the layer's output."""

    needs = frozenset({"gram"})

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """|w| times the root mean square of its input, float64, same shape as `weight`, higher = keep."""
        sizes = to_matrix(weight.detach().abs().double())
        per_group = stats.second_moment(name).sqrt().reshape(-1, sizes.shape[1])
        return from_matrix(sizes * per_group.repeat_interleave(len(sizes) // len(per_group), dim=0), tuple(weight.shape))
