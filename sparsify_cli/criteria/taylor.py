"""How much the loss changes when the weight is removed, to first order: gradient times weight, averaged over batches.

    score_i = E over batches of (g_i w_i)^2      kind = square
              E over batches of |g_i w_i|        kind = absolute

Batch norm uses its running statistics and dropout is off.

Source: Molchanov et al. 2019, arXiv 1906.10771, section 3.1 (square), and Molchanov et al. 2017, arXiv 1611.06440, section 2.2
(absolute). Differs: they score units, here every weight is scored; and nothing is accumulated over training steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.criterion import Criterion, Scores
from sparsify_cli.maths.loss_gradients import batch_gradients, private_copy
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Taylor(Criterion):
    """First-order importance; comparable across tensors.

    Args:
        kind: square or absolute value of gradient times weight, before batches are averaged.
        batch: samples of one gradient; 0 = the calibration's own.
    """

    kind: Literal["square", "absolute"] = "square"
    batch: Annotated[int, Field(ge=0)] = 0
    needs = frozenset({"network"})

    def scores(self, weights: Mapping[str, Tensor], stats: Stats) -> Scores:
        """Mean of (g w)^2 or |g w|, float64, same shapes as `weights`, higher = keep."""
        network = private_copy(stats.probed(), weights)
        values = {name: value.double() for name, value in network.weights().items()}
        power = 2 if self.kind == "square" else 1
        total = {name: value * 0 for name, value in values.items()}
        for share, gradients in batch_gradients(network, batch=self.batch):
            for name, gradient in gradients.items():
                total[name] += share * (gradient * values[name]).abs() ** power
        return {name: total[name].to(weight.device) for name, weight in weights.items()}
