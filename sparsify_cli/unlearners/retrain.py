"""Train a network anew on the samples that stay: the standard that every other method is measured against.

The network is drawn anew (from its architecture, where that is known; else by its layers' own `reset_parameters`), pruned weights stay
pruned, and SGD with a cosine of the learning rate sees the retained samples only. So nothing of the forgotten samples is left in it, as
far as masks and hyper-parameters were not chosen with them. It is exact forgetting at the price of training; with the recipe that the
first network had (`epochs`, `lr`, ...) it is the reference of `--audit`. It knows no warm-up, augmentation or other optimizer, and its
rate falls once an epoch; `train --without` has the whole recipe.

Source: the definition of exact unlearning, Cao and Yang 2015; masks kept fixed: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.maths.schedules import cosine
from sparsify_cli.training.branches import redraw, require_drawable
from sparsify_cli.training.erasing import Erasing, Student, copied, cross_entropy_of
from sparsify_cli.values.report import Finding


@dataclass(frozen=True, kw_only=True)
class Retrain(Erasing):
    """Train anew without the samples.

    Args:
        epochs: passes over the samples that stay.
        lr: learning rate at the start; it falls to zero along a cosine.
    """

    epochs: int = 30
    lr: float = 0.05

    def start(self, model: nn.Module, request: Request) -> nn.Module:
        """A network as it was before training.

        Raises:
            BadRequest: a layer does not say how it is drawn.
        """
        if request.fresh is not None:
            return request.fresh(self.seed).to(next(model.parameters()).device)
        drawn = copied(model)
        require_drawable(drawn)
        torch.manual_seed(self.seed)
        redraw(drawn)
        return drawn

    def descend(self, student: Student, request: Request) -> Sequence[Finding]:
        """Every epoch over the retained samples."""
        losses = [student.epoch(request.retain, cross_entropy_of, share=cosine(epoch, total=self.epochs)) for epoch in range(self.epochs)]
        text = "Mean cross-entropy over the samples that stay, in the last epoch of training anew."
        return (Finding(name="retain_loss", value=losses[-1], unit="nats", n=len(request.retain), definition=text),)
