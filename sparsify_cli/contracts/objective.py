"""The promise of an objective: what is minimised, apart from how."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsify_cli.errors import BadRequest
from sparsify_cli.values.arrays import as_taken_by
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


@torch.no_grad()
def taught_by(guide: nn.Module, inputs: Tensor) -> Tensor:
    """What a teacher says of samples, on their device.

    Raises:
        BadRequest: it does not take them.
    """
    if next(guide.parameters(), inputs).device != inputs.device:
        guide.to(inputs.device)
    try:
        outputs: Tensor = guide(as_taken_by(guide, inputs))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise BadRequest(
            f"The teacher does not take the samples: {first}.", "It has to answer about the same ones as the model.",
            "Choose a teacher trained on samples of this shape, or another --objective.",
        ) from error  # fmt: skip
    return outputs
