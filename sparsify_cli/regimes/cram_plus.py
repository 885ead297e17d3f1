"""Train a dense network that can be pruned in one shot: each step follows the gradients at a compressed point and at itself (CrAM+).

    theta <- theta - lr * (M grad L(M (theta + rho g)) + g),  g = grad L(theta),  M = what --sparsity and --pattern keep of theta + rho g

The masks of the run stay as they are: the network stays dense, or as sparse as it started. `sparse_grad: false` leaves out the M before
the gradient. Pruned afterwards (`sparsify prune`), its batch-norm statistics must be measured anew, which is part of the method.
It serves the sparsity it was trained for and those below; for a list, see cram-multi. A step takes about the time of two; steps and
their exactness are told in `training/compressed_point.py` and `training/perturbed.py`.

Source: Peste et al. 2023 (CrAM, arXiv 2207.14200), official `optimization/custom_optimizers.py`: `TopkCrAM` with plus_version on; `every`:
`TopkCrAMPeriod`. Differs: as told in `training/compressed_point.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.training import compressed_point
from sparsify_cli.values.run import Run


@dataclass(frozen=True, kw_only=True)
class CramPlus(Regime):
    """Follow the gradients at a compressed point and at the weights themselves.

    Args:
        rho: length of the step up, as a multiple of the gradient, >= 0.
        sparse_grad: the gradient at the compressed point counts only where the compression keeps a weight.
        every: steps for which the masks of the compression are used.
    """

    prunes: ClassVar[bool] = False

    rho: float = 0.05
    sparse_grad: bool = True
    every: int = 1

    def __post_init__(self) -> None:
        """Check the options' ranges."""
        compressed_point.check_options("cram-plus", rho=self.rho, every=self.every)

    def start(self, run: Run) -> None:
        """Refuse a run without a compression to train for."""
        compressed_point.begin(run, "cram-plus")

    def passes(self, run: Run) -> tuple[float, float]:
        """Two gradients; that the second network is compressed is not subtracted."""
        del run
        return 6.0, 0.0

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One guarded optimizer step; returns the loss of the dense network."""
        descent = compressed_point.Descent(rho=self.rho, sparse_grad=self.sparse_grad, plus=True)
        choose = partial(compressed_point.chosen, run, run.target)
        return descent.step(run, loss, partial(compressed_point.kept_for, run, self.every, choose))
