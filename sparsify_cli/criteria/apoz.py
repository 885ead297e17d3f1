"""How often the input channel that the weight reads is not zero.

    score_i = fraction of calibration rows in which channel c(i) is active = 1 - APoZ(c(i)), in [0, 1]

The rows of all kernel positions count, zeros of padding included. Weights that read the same channel keep the order of |w| among
themselves and never pass those of another channel; channels equally often active compete as one. Says nothing
where inputs are never exactly zero (no ReLU before the layer): all channels score 1, and |w| decides.

A fraction, and yet not comparable across tensors: how often a layer's channels are active hangs on where it stands.

Source: Hu et al. 2016, arXiv 1607.03250 (network trimming), equation 1. Differs: they remove the neuron; its weights in the layer
that reads it are ranked here, from which the same neurons follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.maths.channel_activity import of_channels, ranked_by_channel
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Apoz(LayerwiseCriterion):
    """Average percentage of zeros, turned round."""

    needs = frozenset({"inputs"})
    directed: ClassVar[bool] = True
    comparable: ClassVar[bool] = False

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """How often the weight's channel is active, float64, same shape as `weight`, higher = keep."""
        return ranked_by_channel(of_channels(stats.activity(name), weight).active, weight)
