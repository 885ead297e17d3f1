"""Sum of the distances of the weight's filter to all other filters of its tensor.

    score_i = sum over j of |W_i - W_j|,      W_i = all weights of output i

A filter near the geometric median of all is the one the others can stand in for, however large it is. Every weight of a filter has the same
score; where a count ends inside a filter, the weights at the earlier positions of the matrix view stay.

Not comparable across tensors: the sum grows with the number of outputs.

Source: He et al. 2019, arXiv 1811.00250 (FPGM), section 3.4. As there, the other filters replace the median itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.values.stats import Stats

CHUNK = 2**22
"""Numbers held at a time beyond the weights."""

CLOSE = 1e-2
"""Below this part of the squares it is the difference of, a squared distance is computed from the filters themselves."""

MANY = 0.05
"""Past this part of all pairs, picking them costs more than computing every pair by differences."""


@dataclass(frozen=True)
class GeometricMedian(LayerwiseCriterion):
    """Redundancy of filters, in the unit of the weight."""

    directed: ClassVar[bool] = True
    comparable: ClassVar[bool] = False

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """The filter's distance to all others, float64, same shape as `weight`, higher = keep."""
        filters = weight.detach().double().contiguous().reshape(len(weight), -1)  # products of strided ones round differently
        largest = float(filters.abs().max()) or 1.0
        filters = filters / largest
        sums = [_distances(part, filters).sum(1) for part in filters.split(max(1, CHUNK // len(filters)))]
        return (torch.cat(sums) * largest).reshape(-1, *[1] * (weight.ndim - 1)).expand_as(weight).clone()


def _distances(some: Float[Tensor, "some columns"], filters: Float[Tensor, "out columns"]) -> Float[Tensor, "some out"]:
    """|a - b| by |a|^2 + |b|^2 - 2 a.b, ten times as fast as by differences; those that would lose digits by differences."""
    squares = some.square().sum(1)[:, None] + filters.square().sum(1)
    apart = squares - 2 * some @ filters.T
    distances = apart.clamp(min=0).sqrt()
    close = apart <= CLOSE * squares
    if int(close.sum()) > MANY * close.numel():
        return torch.cdist(some, filters, compute_mode="donot_use_mm_for_euclid_dist")
    for pairs in close.nonzero().split(max(1, CHUNK // filters.shape[1])):
        i, j = pairs.unbind(1)
        distances[i, j] = torch.linalg.vector_norm(some[i] - filters[j], dim=1)
    return distances
