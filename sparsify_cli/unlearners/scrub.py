"""A student that agrees with its teacher on what stays and disagrees on what goes (SCRUB).

With KL_T the divergence of the student from the network as it was, at temperature T (times T^2):

    max step, on samples to forget   theta <- theta + lr * grad KL_T
    min step, on samples that stay   theta <- theta - lr * grad (alpha KL_T + gamma cross-entropy)

An epoch is a max pass (only in the first `max_epochs`) and then a min pass. With `rewind` (SCRUB+R, against membership inference) the
epoch is taken whose error on the samples to forget is nearest to the last epoch's error on validation samples of the same mixture of
classes: forgotten, but not conspicuously so. Where a whole class goes there is nothing to compare with, and the last epoch is taken.

Source: Kurmanji, Triantafillou, Hayes, Triantafillou 2023 (arXiv 2302.09880); all defaults are those of its published code for a class of
CIFAR-10: SGD at 0.0005 with momentum 0.9, three epochs, two of them with a max pass, gamma = 0.99, alpha = 0.001, T = 4, steps of 256
samples that stay and of 512 to forget (decay 0.0005, where nothing was recorded). With few samples that is a handful of steps, and moves a
network little. Differs: running statistics of batch norm are left alone on samples to forget. A student that is its teacher has no gradient
of KL: the first max pass moves a network only where batch norm or dropout tell them apart; the next one starts from what the min pass has
changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, softmax

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.training.erasing import Cost, Erasing, Student, copied, require
from sparsify_cli.training.forgetting import mixture, right_answers
from sparsify_cli.values.choices import alike, choices, in_any, options, unheard_of
from sparsify_cli.values.report import Finding

REWOUND = "Epoch whose weights were taken, 1 = the first."


@dataclass(frozen=True, kw_only=True)
class Scrub(Erasing):
    """Disagree with the old network on the samples, agree on the rest.

    Args:
        epochs: min passes.
        lr: learning rate, constant.
        batch_size: samples of a step of a min pass.
        forget_batch: of a max pass.
        max_epochs: of them, those with a max pass before.
        alpha: weight of agreement on what stays.
        gamma: weight of the labels of what stays.
        temperature: T of the divergence.
        rewind: take the epoch after which the samples are as wrong as unseen ones (SCRUB+R).
    """

    as_trained: ClassVar[tuple[str, ...]] = ("weight_decay",)
    epochs: int = 3
    lr: float = 0.0005
    batch_size: int = 256
    forget_batch: int = 512
    max_epochs: int = 2
    alpha: float = 0.001
    gamma: float = 0.99
    temperature: float = 4.0
    rewind: bool = False

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        super().__post_init__()
        require(self.forget_batch >= 2, f"forget_batch={self.forget_batch}", "Batch norm needs two.")
        require(0 <= self.max_epochs <= self.epochs, f"max_epochs={self.max_epochs}", "They are among the epochs.")
        require(self.temperature > 0 and self.alpha >= 0 and self.gamma >= 0, f"temperature={self.temperature}", "It is positive.")

    def descend(self, student: Student, request: Request) -> Sequence[Finding]:
        """Max and min passes; the chosen epoch's weights."""
        teacher = copied(student.model).eval()
        states = []
        for epoch in range(self.epochs):
            if epoch < self.max_epochs:
                student.epoch(request.forget, self._apart(teacher), mode="quiet", size=self.forget_batch)
            student.epoch(request.retain, self._together(teacher))
            states.append((student.weights(), _error(student.model, request)) if self.rewind else ({}, 0.0))
        chosen = self._chosen(student, request, [error for _, error in states])
        if chosen < self.epochs - 1:
            student.put(states[chosen][0])
        return (Finding(name="epoch_taken", value=chosen + 1, definition=REWOUND),)

    def _apart(self, teacher: nn.Module) -> Cost:
        return lambda model, inputs, targets: -self._divergence(model(inputs), teacher, inputs, attributes=targets.ndim == 2)

    def _together(self, teacher: nn.Module) -> Cost:
        def cost(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
            logits = model(inputs)
            apart = self._divergence(logits, teacher, inputs, attributes=targets.ndim == 2)
            return self.alpha * apart + self.gamma * cross_entropy(*choices(logits, targets))

        return cost

    def _divergence(self, logits: Tensor, teacher: nn.Module, inputs: Tensor, *, attributes: bool) -> Tensor:
        t = self.temperature
        with torch.no_grad():
            wanted = softmax(options(teacher(inputs.clone()), attributes=attributes) / t, dim=1)
        return t**2 * kl_div(log_softmax(options(logits, attributes=attributes) / t, dim=1), wanted, reduction="batchmean")

    def _chosen(self, student: Student, request: Request, errors: Sequence[float]) -> int:
        """Position of the epoch that is taken."""
        gone = unheard_of(request.forget.targets, request.retain.targets)
        if not self.rewind or bool(in_any(gone).all()):
            return self.epochs - 1
        weights = mixture(*alike(request.validation.targets, request.forget.targets))
        unseen = float((1 - right_answers(student.model, request.validation)) @ weights)
        return min(range(self.epochs), key=lambda epoch: abs(errors[epoch] - unseen))


def _error(model: nn.Module, request: Request) -> float:
    return 1 - float(right_answers(model, request.forget).mean())
