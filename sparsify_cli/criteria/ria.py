"""Share of the weight in its input and in its output, times a power of the input's root mean square.

    score_ij = (|w_ij| / sum_i |w_ij| + |w_ij| / sum_j |w_ij|) * sqrt(E[x_j^2])^a

i runs over the outputs that read input j, j over the inputs of output i. The largest weights of a small row or column compete by their
share of it, so that it is not emptied because it is small. Shares of what is all zero are 0.

Source: Zhang et al. 2024, "Plug-and-Play: An Efficient Post-training Pruning Method for Large Language Models" (ICLR), relative
importance and activations. Differs: the mean of squares replaces their sum, which leaves the order within a layer as it is; a convolution's
input is one channel at one kernel position, in a grouped convolution read by the outputs of its group only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.maths.matrix_view import from_matrix, to_matrix
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Ria(LayerwiseCriterion):
    """Relative importance and activations; made to compete inside a layer.

    Args:
        power: a, how much the size of inputs counts: 0 = not at all, 1 = as in Wanda.
    """

    power: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    needs = frozenset({"inputs"})
    directed: ClassVar[bool] = True
    comparable: ClassVar[bool] = False

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """Relative importance times a power of the input, float64, same shape as `weight`, higher = keep."""
        sizes = to_matrix(weight.detach().abs().double().contiguous())
        sizes = sizes / (float(sizes.max()) or 1.0)  # shares do not see the scale, and sums cannot overflow
        inputs = stats.second_moment(name).sqrt().reshape(-1, 1, sizes.shape[1])
        groups = sizes.reshape(len(inputs), -1, sizes.shape[1])
        scores = (_shares(groups, 1) + _shares(groups, 2)) * inputs.pow(self.power)
        return from_matrix(scores.reshape(sizes.shape), tuple(weight.shape))


def _shares(sizes: Tensor, dim: int) -> Tensor:
    total = sizes.sum(dim, keepdim=True)
    return sizes / total.masked_fill(total == 0, 1)
