"""Fit the truth: mean cross-entropy of labels, attributes or tokens, optionally smoothed; of numbers the mean squared error.

Source: label smoothing: Szegedy et al. 2016 (arXiv 1512.00567), section 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from sparsify_cli.contracts.objective import Loss, Objective
from sparsify_cli.errors import BadRequest
from sparsify_cli.values.losses import loss as loss_of
from sparsify_cli.values.samples import Samples


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """Mean negative log-likelihood of the labels, nats.

    Args:
        label_smoothing: share of the label's probability spread evenly over all classes, in [0, 1).
    """

    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the option's range."""
        if not 0 <= self.label_smoothing < 1:
            raise BadRequest(f"label_smoothing is {self.label_smoothing}.", "It is a share of probability.", "Choose a number in [0, 1).")

    def prepare(self, teacher: Callable[[], nn.Module]) -> Loss:
        """The loss; no teacher is built."""
        del teacher

        def loss(model: nn.Module, batch: Samples) -> Tensor:
            return loss_of(model(batch.inputs), batch.targets, label_smoothing=self.label_smoothing)

        return loss
