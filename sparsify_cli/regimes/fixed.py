"""Train with the masks as they are.

The masks the run starts with stay for every step; without masks this is plain dense training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from sparsify_cli.contracts.regime import Regime
from sparsify_cli.training import guard
from sparsify_cli.values.run import Run


@dataclass(frozen=True)
class Fixed(Regime):
    """Masks never change."""

    aims: ClassVar[bool] = False
    prunes: ClassVar[bool] = False

    def start(self, run: Run) -> None:
        """Make the masks true of the weights before the first forward pass."""
        guard.enforce(run)

    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One guarded optimizer step."""
        return guard.descend(run, loss)
