"""Absolute value of the weight times the root mean square of its input.

    score_ij = |w_ij| * sqrt(E[x_j^2])

A weight at an input that is never active scores 0. The inputs are those of the network before pruning. With scope=row the score says
which place a weight takes in its output row: equal sparsity in every layer then is equal sparsity in every row, to within
one weight; the rows that keep one more are those whose next weight scores highest. With N:M alone rows are equal as well; where more than
the pattern forces goes, or blocks go, they are not.

Source: Sun et al. 2023, arXiv 2306.11695, equation 1. Differs: the mean of squares replaces their sum, which leaves the order
within a layer as it is; scope=layer, the default, lets all weights of a layer compete (or of the network, if the allocation
says so), which is more accurate on image networks, while the paper compares within each output row; with
scope=row the layer's count is exact, where theirs is rounded down in every row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.maths.matrix_view import from_matrix, to_matrix
from sparsify_cli.maths.row_competition import within_rows
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Wanda(LayerwiseCriterion):
    """Weight and activation: score in the unit of the layer's output, or a place in the row.

    Args:
        scope: `layer` = weights of all rows compete; `row` = each with those of its output row, as in the paper.
    """

    scope: Literal["layer", "row"] = "layer"
    needs = frozenset({"inputs"})
    directed: ClassVar[bool] = True
    comparable: ClassVar[bool] = False

    @property
    def sizes(self) -> Wanda:
        """By |w| |x| itself."""
        return self if self.scope == "layer" else replace(self, scope="layer")

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """|w| times the root mean square of its input, or its place in the row, float64, same shape as `weight`, higher = keep."""
        sizes = to_matrix(weight.detach().abs().double())
        per_group = stats.second_moment(name).sqrt().reshape(-1, sizes.shape[1])
        scores = sizes * per_group.repeat_interleave(len(sizes) // len(per_group), dim=0)
        return from_matrix(within_rows(scores) if self.scope == "row" else scores, tuple(weight.shape))
