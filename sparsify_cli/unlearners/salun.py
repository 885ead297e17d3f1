"""Teach wrong labels, but only to the weights that the samples to forget are written in (SalUn).

    saliency   |grad (1/k) sum_{i in S} l_i(theta)|, the top `share` of the weights that may move; the rest keep their bits
    then       cross-entropy to labels drawn at random among the wrong ones on S, and weight * cross-entropy on what stays;
               labels are drawn anew in each epoch, so that none is learnt by heart

Both kinds of samples go through the network in shuffled batches of their union, so an epoch sees each once. Running statistics of batch
norm are left alone meanwhile, and measured on samples that stay in the end.

Source: Fan, Liu, Zhang, Wong, Wei, Liu 2024 (arXiv 2310.12508); the median as threshold (share 0.5), 10 epochs at a rate of 0.013 with
momentum 0.9 and batches of 256 as its published code has them for CIFAR-10. Differs: an exact share by a stable order, not a threshold;
the right label is never drawn (as in the paper, not the code); batches of the union (the code has them for CIFAR-100, and for CIFAR-10
passes over S before what stays); statistics of batch norm as said above; no augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparsify_cli.contracts.unlearner import Request
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.keep import as_fraction, keep_count, top_k
from sparsify_cli.maths.per_sample_gradients import Coordinates, gradient_sum
from sparsify_cli.training.batches import derived_seed
from sparsify_cli.training.batchnorm import has_batchnorm, recalibrate
from sparsify_cli.training.erasing import Erasing, Student, require
from sparsify_cli.training.forgetting import draw
from sparsify_cli.values.choices import choices, of_samples
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

SALIENT = "Weights that could move, by the gradient of the samples to forget."
STATISTICS = 5000
"""Most retained samples that statistics are measured on."""
FORGET = "forget:"
"""Before the ids of samples with wrong labels."""


@dataclass(frozen=True, kw_only=True)
class Salun(Erasing):
    """Wrong labels for the samples, in the weights they are written in.

    Args:
        epochs: passes over all samples, those to forget with wrong labels.
        lr: learning rate, constant.
        batch_size: samples of a step.
        share: of the weights that may move, those that do; 1 = all (random labels).
        weight: of the samples that stay, beside those to forget.
    """

    as_trained: ClassVar[tuple[str, ...]] = ("weight_decay",)
    epochs: int = 10
    lr: float = 0.013
    batch_size: int = 256
    share: float = 0.5
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse options without a meaning."""
        super().__post_init__()
        require(0 < self.share <= 1 and self.weight >= 0, f"share={self.share}, weight={self.weight}", "A share lies in (0, 1].")

    def descend(self, student: Student, request: Request) -> Sequence[Finding]:
        """Find the salient weights, train them."""
        salient = salient_weights(student.model, request, self.share)
        left, both = request.retain.targets.unique(), _union(request.forget, request.retain)
        with student.only(salient):
            for epoch in range(self.epochs):
                wrong = wrong_labels(request.forget, left, derived_seed(self.seed, 7 + epoch))
                marked = torch.cat([-1 - wrong, request.retain.targets])
                student.epoch(replace(both, targets=marked), self._cost, mode="quiet")
        if has_batchnorm(student.model) and len(request.retain) > 1:
            recalibrate(student.model, draw(request.retain, STATISTICS, self.seed).inputs, batch=128)
        moving = sum(int(mask.sum()) for mask in salient.masks.values())
        return (Finding(name="salient_weights", value=moving, definition=SALIENT),)

    def _cost(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        """Labels of samples to forget are marked by being negative: -1 - label."""
        labels = torch.where(targets < 0, -1 - targets, targets)
        losses = of_samples(cross_entropy(*choices(model(inputs), labels), reduction="none"), labels) * len(labels) / labels.numel()
        forget = targets.reshape(len(targets), -1)[:, 0] < 0
        return (losses * torch.where(forget, 1.0, self.weight)).mean()


def salient_weights(model: nn.Module, request: Request, share: float) -> MaskSet:
    """True where the gradient of the mean loss of the samples to forget is among the largest of all weights that may move."""
    coordinates = Coordinates.of(model, request.masks, request.frozen)
    flat = gradient_sum(model, request.forget.inputs, request.forget.targets, coordinates).abs()
    chosen = top_k(flat, keep_count(len(flat), 1 - as_fraction(str(share))))
    zeros = {name: torch.zeros(shape) for name, shape in coordinates.shapes.items()}
    return MaskSet({name: moved != 0 for name, moved in coordinates.moved(zeros, chosen.float()).items()})


def wrong_labels(samples: Samples, classes: Int[Tensor, " classes"], seed: int) -> Int[Tensor, "n *a"]:
    """For each sample one of the classes that is not its own, all as likely; of attributes the opposite of each.

    Args:
        samples: with their true labels.
        classes: those that stay, rising.
        seed: of the draw.

    Raises:
        BadRequest: a sample has no other class to go to.
    """
    if samples.has_attributes:
        return 1 - samples.targets
    own = samples.targets.unsqueeze(1) == classes
    if bool(own.all(dim=1).any()):
        raise BadRequest("There is one class only.", "A wrong label needs another.", "Choose another method.")
    chances = torch.rand(own.shape, generator=torch.Generator().manual_seed(seed)).masked_fill(own, -1.0)
    return classes[chances.argmax(dim=1)]


def _union(forget: Samples, retain: Samples) -> Samples:
    """Both, those to forget first."""
    ids = (*(FORGET + name for name in forget.ids), *retain.ids)
    return Samples(torch.cat([forget.inputs, retain.inputs]), torch.cat([forget.targets, retain.targets]), ids, classes=retain.classes)
