"""The promise of a regime: how one step and the masks evolve. Any regime goes with any objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor

from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run


class Regime(ABC):
    """Evolves masks and weights. A frozen dataclass; its fields are its options; what it must remember goes to `run.memory`.

    What is random in it is drawn from `run.generator()`, which depends on seed and step alone and is the same on every process;
    what it decides about masks goes through `training/masking.py`; what a person should know later is told with `run.tell`.
    """

    aims: ClassVar[bool] = True
    """True when it needs a sparsity or a pattern: `run.sparsify` and `run.target`."""

    prunes: ClassVar[bool] = True
    """True when the masks hold that sparsity and pattern at the end."""

    looks_up: ClassVar[bool] = False
    """True when `seen` only looks masks up, so that it may be asked at every step."""

    def clock(self, run: Run) -> tuple[int, int]:
        """Where the learning-rate schedule stands: the step and the total that it is asked for; those of the run by default."""
        return run.step, run.total

    def start(self, run: Run) -> None:
        """Once, before the first step (not at a resume)."""
        del run

    @abstractmethod
    def step(self, run: Run, loss: Callable[[], Tensor]) -> Tensor:
        """One optimizer step on `loss`, masks enforced afterwards; returns the loss it stepped on, detached."""

    def finish(self, run: Run) -> None:
        """Once, after the last step."""
        del run

    def is_settled(self, run: Run) -> bool:
        """Whether a run may end here: the schedule has no phase left that the result depends on. True by default."""
        del run
        return True

    def seen(self, run: Run) -> MaskSet | None:
        """The masks that the network is computed through, where weights are dense between steps; None = those of the run."""
        del run
        return None

    def passes(self, run: Run) -> tuple[float, float]:
        """What the next step computes, in forward passes of the network as it is masked, and of the dense one.

        A backward pass counts as two: gradients of inputs and of weights. (3, 0) by default.
        """
        del run
        return 3.0, 0.0

    def others(self, run: Run) -> Mapping[str, Mapping[str, Tensor]]:
        """Further networks that came of the run: name -> state dict, like a dense one beside the sparse one; none by default."""
        del run
        return {}
