"""Mean activation of the input channel that the weight reads, without its sign.

    score_i = |E[x_c]|,      c = the input channel of weight i

The rows of all kernel positions count, zeros of padding included. Weights that read the same channel keep the order of |w| among
themselves and never pass those of another channel; channels of equal mean compete as one.

Source: Molchanov et al. 2017, arXiv 1611.06440, section 2.2, "activation"; Hoefler et al. 2021, arXiv 2102.00554, section 3.3.
Differs: |E[x]| in the place of E|x|, which is the same behind a ReLU; channels are those a layer reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.maths.channel_activity import of_channels, ranked_by_channel
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class ActivationMean(LayerwiseCriterion):
    """Mean of the input channel, in its unit."""

    needs = frozenset({"inputs"})
    directed: ClassVar[bool] = True
    comparable: ClassVar[bool] = False

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """|E[x]| of the weight's channel, float64, same shape as `weight`, higher = keep."""
        return ranked_by_channel(of_channels(stats.activity(name), weight).mean.abs(), weight)
