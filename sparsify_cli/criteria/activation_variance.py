"""Variance of the input channel that the weight reads: what never changes could be a bias.

    score_i = E[x_c^2] - E[x_c]^2,      c = the input channel of weight i

The rows of all kernel positions count as one sample, zeros of padding included. Weights that read the same channel keep the order
of |w| among themselves and never pass those of another channel; channels of equal variance compete as one.

Source: Polyak and Wolf 2015, "Channel-level acceleration of deep face representations" (inbound pruning: variance over samples);
Hoefler et al. 2021, arXiv 2102.00554, section 3.3. Differs: the variance of the channel itself, not of what it adds to each output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.maths.channel_activity import of_channels, ranked_by_channel
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class ActivationVariance(LayerwiseCriterion):
    """Variance of the input channel, in the square of its unit."""

    needs = frozenset({"inputs"})
    directed: ClassVar[bool] = True
    comparable: ClassVar[bool] = False

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """Var(x) of the weight's channel, float64, same shape as `weight`, higher = keep."""
        return ranked_by_channel(of_channels(stats.activity(name), weight).variance, weight)
