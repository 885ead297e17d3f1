"""How much the loss grows when the weight is removed from a trained network, by the diagonal of the Fisher matrix.

    score_i = 1/2 w_i^2 H_ii,      H_ii = E[g_i^2] over the gradients of single samples

Batch norm uses its running statistics. A mean of squares, not the square of a mean: at a minimum the mean gradient is zero.

Source: LeCun, Denker and Solla 1990, "Optimal brain damage", section 2. Differs: the empirical Fisher diagonal stands for their
diagonal second derivatives, as is usual since Theis et al. 2018, arXiv 1801.05787.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.criterion import Criterion, Scores
from sparsify_cli.maths.loss_gradients import private_copy, squared_gradients
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Obd(Criterion):
    """Optimal brain damage: expected growth of the loss, nats; comparable across tensors."""

    needs = frozenset({"network"})

    def scores(self, weights: Mapping[str, Tensor], stats: Stats) -> Scores:
        """w^2 E[g^2] / 2, float64, same shapes as `weights`, higher = keep."""
        network = private_copy(stats.probed(), weights)
        curvature, values = squared_gradients(network), network.weights()
        return {name: (values[name].double().square() * curvature[name] / 2).to(weight.device) for name, weight in weights.items()}
