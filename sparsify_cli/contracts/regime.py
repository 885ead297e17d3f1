"""The promise of a regime: how one step and the masks evolve. Any regime goes with any objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from sparsify_cli.values.run import Run


class Regime(ABC):
    """Evolves masks and weights. A frozen dataclass; its fields are its options; what it must remember goes to `run.memory`."""

    def start(self, run: Run) -> None:
        """Once, before the first step (not at a resume)."""
        del run

    @abstractmethod
    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One optimizer step on `loss`, masks enforced afterwards; returns the loss it stepped on, detached."""

    def finish(self, run: Run) -> None:
        """Once, after the last step."""
        del run
