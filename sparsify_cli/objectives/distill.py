"""Fit the labels and the outputs of a teacher, the dense ancestor by default.

loss = (1 - w) CE(labels, student) + w T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over the batch. The
factor T^2 keeps the size of the second gradient when T changes.

Source: Hinton, Vinyals, Dean 2015 (arXiv 1503.02531), section 2. Default weight as in Safaryan, Peste, Alistarh 2023
(arXiv 2305.17581), official code; there the teacher runs in train mode, here in eval mode.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from sparsify_cli.contracts.objective import Loss, Objective
from sparsify_cli.errors import BadRequest
from sparsify_cli.values.choices import choices, options
from sparsify_cli.values.samples import Samples


@dataclass(frozen=True, kw_only=True)
class Distill(Objective):
    """Cross-entropy and the divergence from a teacher, nats.

    Args:
        temperature: T > 0; higher looks at the teacher's small probabilities as well.
        weight: w in [0, 1], the share of the teacher (elsewhere: hardness, lambda).
    """

    needs_teacher: ClassVar[bool] = True

    temperature: float = 2.0
    weight: float = 0.7

    def __post_init__(self) -> None:
        """Check the options' ranges."""
        if not self.temperature > 0 or not 0 <= self.weight <= 1:
            raise BadRequest(
                f"distill has temperature {self.temperature} and weight {self.weight}.", "", "Choose temperature > 0 and weight in [0, 1]."
            )

    def prepare(self, teacher: Callable[[], nn.Module]) -> Loss:
        """Build the teacher; its outputs are computed batch by batch, without gradients.

        Raises:
            BadRequest: (at the first batch) teacher and model have different numbers of outputs.
        """
        guide = teacher().eval().requires_grad_(False)

        def loss(model: nn.Module, batch: Samples) -> Tensor:
            logits = model(batch.inputs)
            taught = _outputs(guide, batch.inputs).to(logits.dtype)
            if taught.shape != logits.shape:
                raise BadRequest(
                    f"The teacher has {taught.shape[-1]} outputs, the model {logits.shape[-1]}.",
                    "Distillation compares them class by class.",
                    "Choose a teacher trained on the same classes, or the objective cross-entropy.",
                )
            hard = functional.cross_entropy(*choices(logits, batch.targets))
            taught, logits = (options(one, attributes=batch.has_attributes) for one in (taught, logits))
            return (1 - self.weight) * hard + self.weight * _divergence(taught, logits, self.temperature)

        return loss


@torch.no_grad()
def _outputs(guide: nn.Module, inputs: Tensor) -> Tensor:
    like = next(guide.parameters(), inputs)
    if like.device != inputs.device:
        guide.to(inputs.device)
    outputs: Tensor = guide(inputs.to(like.dtype))
    return outputs


def _divergence(taught: Float[Tensor, "n outputs"], logits: Float[Tensor, "n outputs"], temperature: float) -> Tensor:
    """T^2 KL(teacher || student) at temperature T, mean over the batch."""
    log_student = functional.log_softmax(logits / temperature, dim=1)
    log_teacher = functional.log_softmax(taught / temperature, dim=1)
    return temperature**2 * functional.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
