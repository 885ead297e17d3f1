"""What the regimes share that take a second gradient where the network is compressed as --sparsity and --pattern say."""

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
class Compressing(Regime):
    """One compression, the target's.

    Args:
        rho: length of the step up, as a multiple of the gradient, >= 0.
        sparse_grad: the gradient at the compressed point counts only where the compression keeps a weight.
        every: steps for which the masks of the compression are used.
    """

    prunes: ClassVar[bool] = False
    called: ClassVar[str]
    """The regime's name, for what is said of it."""
    plus: ClassVar[bool]
    """True when the gradient at the weights themselves is added."""

    rho: float = 0.05
    sparse_grad: bool = True
    every: int = 1

    def __post_init__(self) -> None:
        """Check the options' ranges."""
        compressed_point.check_options(self.called, rho=self.rho, every=self.every)

    def start(self, run: Run) -> None:
        """Refuse a run without a compression to train for."""
        compressed_point.begin(run, self.called)

    def passes(self, run: Run) -> tuple[float, float]:
        """Two gradients; that the second network is compressed is not subtracted."""
        del run
        return 6.0, 0.0

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One guarded optimizer step; returns the loss of the dense network."""
        descent = compressed_point.Descent(rho=self.rho, sparse_grad=self.sparse_grad, plus=self.plus)
        choose = partial(compressed_point.chosen, run, run.target)
        return descent.step(run, loss, partial(compressed_point.kept_for, run, self.every, choose))
