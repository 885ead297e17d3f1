"""Static: random masks, never changed; the control that every way of moving them must beat.

    M = random, with the recipe's counts in each layer;   each step:  g = dL/dw * M;  optimizer step;  w = w * M

A checkpoint that holds the sparsity already keeps its masks. With a pattern, choose `initial=chosen`: the recipe's criterion (random,
for instance) then picks positions that hold it.

Source: "Static" of Evci et al. 2020 (arXiv 1911.11134), section 4. Differs: counts are exact; the masks may also be chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.training import first_masks, guard
from sparsify_cli.training.first_masks import Initial
from sparsify_cli.values.run import Run


@dataclass(frozen=True, kw_only=True)
class Static(Regime):
    """One choice of masks before the first step.

    Args:
        initial: random, or chosen by the recipe's criterion; auto = chosen for a trained checkpoint, else random.
    """

    initial: Initial = "auto"

    def __post_init__(self) -> None:
        """Refuse another word."""
        first_masks.check_initial("static", self.initial)

    def start(self, run: Run) -> None:
        """Choose the masks."""
        first_masks.begin(run, regime="static", initial=self.initial, keeps_pattern=True)

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One guarded optimizer step."""
        return guard.descend(run, loss)
