"""How much the loss feels the connection: the absolute value of gradient times weight, on one batch.

    score_i = |g_i w_i|,      g = gradient of the mean loss over the samples

Source: Lee et al. 2019, arXiv 1810.02340, section 4. Differs: scores are not divided by their sum, which leaves their order
as it is; and more samples than one pass takes are split, so that batch norm sees parts of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import Field
from torch import Tensor

from sparsify_cli.contracts.criterion import Criterion, Scores
from sparsify_cli.maths.loss_gradients import BatchNorm, loss_gradient, private_copy
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Snip(Criterion):
    """Connection sensitivity; comparable across tensors, made for networks that are not trained yet.

    Args:
        samples: of the batch, the first of the calibration set; 0 = all of it.
        batch_norm: divide by the statistics of the batch, as at initialisation, or by running ones.
    """

    samples: Annotated[int, Field(ge=0)] = 100
    batch_norm: BatchNorm = "batch"
    needs = frozenset({"network"})

    def scores(self, weights: Mapping[str, Tensor], stats: Stats) -> Scores:
        """|g w|, float64, same shapes as `weights`, higher = keep."""
        network = private_copy(stats.probed(), weights, batch_norm=self.batch_norm)
        end = self.samples or len(network.inputs)
        gradients = loss_gradient(replace(network, inputs=network.inputs[:end], targets=network.targets[:end]))
        values = network.weights()
        return {name: (gradients[name] * values[name]).abs().to(weight.device) for name, weight in weights.items()}
