"""Movement: how far training has moved the weight away from zero; gathered while training, so for `finetune --regime gmp`.

    score = - sum over steps of g w        g = gradient of the loss, w = the weight before the step

A weight that grows in size has g w < 0 and scores high, one that shrinks scores low, whatever its size.

Source: Sanh et al. 2020, arXiv 2005.07683, section 4 (hard movement pruning). Differs: the true gradient of weights that are there;
theirs reaches masked weights too, straight through, and masks may grow back, which the regime's only shrink.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.criterion import LayerwiseCriterion
from sparsify_cli.values.stats import Stats


@dataclass(frozen=True)
class Movement(LayerwiseCriterion):
    """Accumulated movement away from zero; comparable across tensors."""

    needs = frozenset({"movement"})

    def score(self, name: str, weight: Tensor, stats: Stats) -> Tensor:
        """What training has gathered, float64."""
        return stats.moved(name).to(weight.device).double()
