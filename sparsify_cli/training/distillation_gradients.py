"""Gradients of the labels' loss and of what a teacher adds to it, batch by batch, at the weights a run starts from.

Both networks are in eval mode, so that batch norm and dropout do not add noise of their own; masked weights do not count.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sparsify_cli.contracts.objective import taught_by
from sparsify_cli.errors import BadRequest
from sparsify_cli.training.batches import as_taken_by, epoch_order
from sparsify_cli.training.modes import evaluating
from sparsify_cli.values.losses import divergence
from sparsify_cli.values.losses import loss as loss_of
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.samples import Samples


def gradient_pairs(
    student: nn.Module, teacher: nn.Module, samples: Samples, masks: MaskSet, *, temperature: float, batch: int, most: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(g, t) of up to `most` batches, flat: g of cross-entropy, t = g - T^2 grad KL, over weights that are not masked.

    Args:
        student: at the weights it starts from.
        teacher: what it listens to.
        samples: the training split.
        masks: of the student.
        temperature: T.
        batch: samples of each gradient.
        most: gradients.
        seed: of which samples.
    """
    order = epoch_order(len(samples), seed=seed, epoch=0)
    free = {name: p for name, p in student.named_parameters() if p.requires_grad}
    with evaluating(student), evaluating(teacher):
        for chosen in order.split(batch)[:most]:
            part = samples.take(chosen)
            taught = taught_by(teacher, part.inputs)
            logits = student(as_taken_by(student, part.inputs))
            _require_alike(taught, logits)
            hard = loss_of(logits, part.targets.to(logits.device))
            soft = divergence(logits, taught.to(logits), part.kind, temperature=temperature, targets=part.targets.to(logits.device))
            g = _flat(hard, free, masks, retain=True)
            yield g, g - _flat(soft, free, masks, retain=False)


def _require_alike(taught: Tensor, logits: Tensor) -> None:
    if taught.shape != logits.shape:
        raise BadRequest(
            f"The teacher has {taught.shape[-1]} outputs, the model {logits.shape[-1]}.",
            "Distillation compares them class by class.",
            "Choose a teacher trained on the same classes, or the objective cross-entropy.",
        )


def _flat(loss: Tensor, free: dict[str, nn.Parameter], masks: MaskSet, *, retain: bool) -> Tensor:
    slopes = torch.autograd.grad(loss, list(free.values()), retain_graph=retain, allow_unused=True)
    pairs = zip(free.items(), slopes, strict=True)
    found = {name: torch.zeros_like(p) if slope is None else slope for (name, p), slope in pairs}
    return torch.cat([masks.apply({name: s})[name].flatten() if name in masks else s.flatten() for name, s in found.items()])
