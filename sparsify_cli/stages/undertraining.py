"""Is a sparse network under-trained? How well it fits its own training samples, and how sure it is, beside the dense one.

Recipes that are long enough for a dense network are often too short for a sparse one: it ends with a higher training loss and
less certain predictions, like a dense network that was stopped early, and gains from training on.

Source: Kuznedelev et al. 2023 (arXiv 2308.02060), which uses these two quantities; the thresholds are ours. Plain cross-entropy, without
smoothed labels and without augmentation, for both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.stages.measure import predict
from sparsify_cli.training.batchnorm import mean_loss
from sparsify_cli.values.choices import choices
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Samples

LOOKED_AT = 2000
"""Training samples."""

LOSS, ENTROPY = 0.05, 0.05
"""Nats by which both must exceed the dense network's."""
ROUNDING = 1e-3
"""Of sparsities: counts are rounded once a tensor."""


@dataclass(frozen=True)
class Fit:
    """On training samples.

    Args:
        loss: mean cross-entropy, nats.
        entropy: mean entropy of the predictions, nats; NaN of texts and numbers.
        count: samples.
    """

    loss: float
    entropy: float
    count: int

    def findings(self, of: Literal["compressed", "dense"]) -> list[Finding]:
        """Both numbers."""
        loss = "Mean cross-entropy on training samples, without augmentation."
        entropy = "Mean entropy of the predictions on training samples: how unsure the network is of what it has seen."
        if math.isnan(self.entropy):
            text = "Mean loss on training samples, without augmentation: cross-entropy of a token, or squared error."
            return [Finding(name="train_loss", value=self.loss, unit="", n=self.count, of=of, better="lower", definition=text)]
        return [
            Finding(name="train_nll", value=self.loss, unit="nats", n=self.count, of=of, better="lower", definition=loss),
            Finding(name="train_entropy", value=self.entropy, unit="nats", n=self.count, of=of, definition=entropy),
        ]


def fit(module: nn.Module, samples: Samples) -> Fit:
    """How a network fits training samples."""
    some = samples.take(range(min(LOOKED_AT, len(samples))))
    if not some.chooses:
        return Fit(mean_loss(module, some), math.nan, len(some))
    logits = predict(module, some).logits.double()
    rows, right = choices(logits, some.targets.cpu())
    entropy = torch.special.entr(rows.softmax(1)).sum(1).mean()
    return Fit(float(functional.cross_entropy(rows, right)), float(entropy), len(some))


def fall(history: Sequence[Mapping[str, float]]) -> float | None:
    """By which share the loss in training fell from the last quarter but one to the last, of the epochs at the sparsity it ends with.

    None of fewer than four such epochs. Where the rate falls to zero, little is left to fall at the end: a small fall does not say that
    a longer schedule would be in vain, a large one says that this one was cut off.
    """
    losses = [entry["loss"] for entry in history if entry["sparsity"] >= history[-1]["sparsity"] - ROUNDING]
    quarter = len(losses) // 4
    if not quarter:
        return None
    before, last = fmean(losses[-2 * quarter : -quarter]), fmean(losses[-quarter:])
    return (before - last) / before if before > 0 else None


def verdict(sparse: Fit, dense: Fit, falling: float | None = None) -> str:
    """A sentence where both exceed the dense network's, else nothing; with by how much the loss still fell, where that is known."""
    if math.isnan(sparse.entropy) or sparse.loss <= dense.loss + LOSS or sparse.entropy <= dense.entropy + ENTROPY:
        return ""
    return (
        f"under-trained: on its own training samples the sparse network has a loss of {sparse.loss:.3g} nats (dense {dense.loss:.3g}) and "
        f"an entropy of {sparse.entropy:.3g} ({dense.entropy:.3g}){_still(falling)}; more --epochs are likely to help it."
    )


def _still(falling: float | None) -> str:
    if falling is None:
        return ""
    how = f"still fell by {falling:.1%}" if falling > 0 else "no longer fell"
    return f"; in training its loss {how} over the last quarter of its epochs at full sparsity"
