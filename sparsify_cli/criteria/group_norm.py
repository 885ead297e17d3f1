"""Norm of the filter, channel or kernel the weight belongs to, divided by the square root of its size.

    score_i = |W_g|_p / sqrt(|g|),      g = the group of weight i

    row      all weights of one output: a filter, a neuron
    column   all weights that read one input channel, at every kernel position (in a grouped convolution: one channel of each group)
    kernel   the weights between one input channel and one output; of a linear layer, single weights

Every weight of a group has the same score, so groups go as a whole as long as counts allow; groups of different size are
comparable, across tensors too. Where a count ends inside a group, the weights at the earlier positions of the matrix view (output
after output, then kernel positions, channels fastest) stay, and that one group is cut; the same order decides between groups of equal norm.

Source: Li et al. 2017, arXiv 1608.08710 (filters, p = 1); Hoefler et al. 2021, arXiv 2102.00554, section 3.2. Differs: the division,
without which a global ranking removes the groups with the fewest weights first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.values.stats import Stats

DIMS = {"row": (1, 2), "column": (0, 2), "kernel": (2,)}
"""Dimensions of [out, in, kernel positions] that one group spans."""


@dataclass(frozen=True)
class GroupNorm(LayerwiseCriterion):
    """Structured magnitude, in the unit of the weight.

    Args:
        group: `row` (filter), `column` (input channel with all its kernel positions) or `kernel`.
        p: of the norm, 1 = sum of absolute values, 2 = root of the sum of squares.
    """

    group: Literal["row", "column", "kernel"] = "row"
    p: Literal[1, 2] = 2
    directed: ClassVar[bool] = True

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """The group's norm over the root of its size, float64, same shape as `weight`, higher = keep."""
        sizes = weight.detach().abs().double().contiguous().reshape(len(weight), weight.shape[1] if weight.ndim > 1 else 1, -1)
        largest = float(sizes.max()) or 1.0  # squares of very small or very large weights neither vanish nor overflow
        dims = DIMS[self.group]
        norms: Tensor = torch.linalg.vector_norm(sizes / largest, ord=self.p, dim=dims, keepdim=True) * largest
        members = math.prod(sizes.shape[dim] for dim in dims)
        return (norms / math.sqrt(members)).expand_as(sizes).reshape(weight.shape).clone()
