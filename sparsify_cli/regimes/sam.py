"""Sharpness-aware minimisation: each step follows the gradient taken at the worst point nearby, so flat minima are found.

    theta <- theta - lr * grad L(theta + rho g / |g|),  g = grad L(theta)

|g| is over all parameters together. With `normalise: false` the step up is rho g. A sparse network stays sparse: weights that
are masked or frozen are neither perturbed nor counted in |g|. Both passes see the same batch and the same dropout; running
statistics follow the first (`training/perturbed.py`). A step takes about the time of two.

Source: Foret et al. 2021 (SAM, arXiv 2010.01412), algorithm 1 and equation 2 with p = 2; un-normalised as in Andriushchenko and
Flammarion 2022 (arXiv 2206.06232). Differs: with several processes the gradient of all is followed upwards (in the official
`flax_training.py` that is the flag sync_perturbations, off there), and running statistics do not see the perturbed network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.training import guard, perturbed
from sparsify_cli.training.compressed_point import check_options
from sparsify_cli.values.run import Run

TINY = 1e-12
"""Added to |g|, so that a gradient of zero moves nothing."""


@dataclass(frozen=True, kw_only=True)
class Sam(Regime):
    """Follow the gradient of the worst point nearby.

    Args:
        rho: distance to it; a multiple of the gradient where it is not normalised; >= 0.
        normalise: divide the gradient by its norm.
    """

    aims: ClassVar[bool] = False
    prunes: ClassVar[bool] = False

    rho: float = 0.05
    normalise: bool = True

    def __post_init__(self) -> None:
        """Check the option's range."""
        check_options("sam", rho=self.rho, every=1)

    def start(self, run: Run) -> None:
        """Make the masks true of the weights before the first forward pass."""
        guard.enforce(run)

    def passes(self, run: Run) -> tuple[float, float]:
        """Two gradients of the network as it is masked."""
        del run
        return 6.0, 0.0

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One guarded optimizer step along the gradient at the perturbed point; returns the loss at the weights themselves."""
        here = perturbed.first_pass(run, loss)
        with perturbed.elsewhere(run, here):
            scale = self.rho / (perturbed.norm(here.gradients) + TINY) if self.normalise else self.rho
            perturbed.move(run, here.gradients, scale)
            there = perturbed.second_pass(run, loss)
        perturbed.descend(run, there.gradients)
        return here.loss
