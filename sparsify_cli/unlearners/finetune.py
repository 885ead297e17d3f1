"""Train on, on the samples that stay: what is not rehearsed is forgotten, if slowly.

The weakest of the methods that train: networks that fit everything keep most of what they know about the forgotten samples. It is the
baseline of the literature, and removes nothing from the masks.

Source: "fine-tuning" of Golatkar, Achille, Soatto 2020 (arXiv 1911.04933); there with a larger learning rate than at the end of
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.training.erasing import Erasing, Student, cross_entropy_of
from sparsify_cli.values.report import Finding


@dataclass(frozen=True, kw_only=True)
class Finetune(Erasing):
    """Train on without the samples.

    Args:
        epochs: passes over the samples that stay.
        lr: learning rate, constant.
    """

    as_trained: ClassVar[tuple[str, ...]] = ("weight_decay",)
    epochs: int = 5
    lr: float = 0.01

    def descend(self, student: Student, request: Request) -> Sequence[Finding]:
        """Every epoch over the retained samples."""
        losses = [student.epoch(request.retain, cross_entropy_of) for _ in range(self.epochs)]
        text = "Mean cross-entropy over the samples that stay, in the last epoch."
        return (Finding(name="retain_loss", value=losses[-1], unit="nats", n=len(request.retain), definition=text),)
