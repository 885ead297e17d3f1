"""The promise of an objective: what is minimised, apart from how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from sparsify_cli.values.samples import Samples

Loss = Callable[[nn.Module, Samples], Tensor]
"""(model, batch) -> scalar, mean over the batch."""


class Objective(ABC):
    """Makes a loss. A frozen dataclass; its fields are its options."""

    needs_teacher: ClassVar[bool] = False
    """True when `prepare` calls `teacher`."""

    @abstractmethod
    def prepare(self, teacher: Callable[[], nn.Module]) -> Loss:
        """The loss to minimise.

        Args:
            teacher: builds the dense ancestor, in eval mode; called only by objectives that want one.
        """
