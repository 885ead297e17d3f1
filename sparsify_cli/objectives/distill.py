"""Fit the labels and the outputs of a teacher, the dense ancestor by default.

loss = (1 - w) CE(labels, student) + w T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch. The
factor T^2 keeps the size of the second gradient when T changes. Of numbers both are mean squared errors, and T means nothing.

Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2. Default weight as in Safaryan, Peste, Alistarh 2023
(arXiv 2305.17581), official code; there the teacher runs in train mode, here in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from sparsify_cli.contracts.objective import Loss, Objective, taught_by
from sparsify_cli.errors import BadRequest
from sparsify_cli.values.losses import divergence
from sparsify_cli.values.losses import loss as loss_of
from sparsify_cli.values.samples import Samples


@dataclass(frozen=True, kw_only=True)
class Distill(Objective):
    """Cross-entropy and the divergence from a teacher, nats.

    Args:
        temperature: T > 0; higher looks at the teacher's small probabilities as well.
        weight: w in [0, 1], the share of the teacher (elsewhere: hardness, lambda).
        label_smoothing: share of the label's probability spread evenly over all classes, in [0, 1); the teacher is listened to as it is.
    """

    needs_teacher: ClassVar[bool] = True

    temperature: float = 2.0
    weight: float = 0.7
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Check the options' ranges."""
        if not self.temperature > 0 or not 0 <= self.weight <= 1:
            raise BadRequest(
                f"distill has temperature {self.temperature} and weight {self.weight}.", "", "Choose temperature > 0 and weight in [0, 1]."
            )
        if not 0 <= self.label_smoothing < 1:
            raise BadRequest(f"label_smoothing is {self.label_smoothing}.", "It is a share of probability.", "Choose a number in [0, 1).")

    def prepare(self, teacher: Callable[[], nn.Module]) -> Loss:
        """Build the teacher; its outputs are computed batch by batch, without gradients.

        Raises:
            BadRequest: (at the first batch) teacher and model have different numbers of outputs.
        """
        guide = teacher().eval().requires_grad_(False)

        def loss(model: nn.Module, batch: Samples) -> Tensor:
            logits = model(batch.inputs)
            taught = taught_by(guide, batch.inputs).to(logits.dtype)
            if taught.shape != logits.shape:
                raise BadRequest(
                    f"The teacher has {taught.shape[-1]} outputs, the model {logits.shape[-1]}.",
                    "Distillation compares them class by class.",
                    "Choose a teacher trained on the same classes, or the objective cross-entropy.",
                )
            hard = loss_of(logits, batch.targets, label_smoothing=self.label_smoothing)
            if batch.kind == "numbers":
                return (1 - self.weight) * hard + self.weight * loss_of(logits, taught)
            return (1 - self.weight) * hard + self.weight * divergence(
                logits, taught, batch.kind, temperature=self.temperature, targets=batch.targets
            )

        return loss
