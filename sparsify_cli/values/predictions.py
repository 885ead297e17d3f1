"""Predictions: one pass of one model over one split, and everything a metric may ask about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsify_cli.errors import Anomalous


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about a split; it does not know the model.

    Args:
        logits: float32, one row a sample.
        targets: true labels.
        ids: names of the samples, in row order.
        groups: column -> one value a sample.
        classes: names of the classes, by label.
    """

    logits: Float[Tensor, "n outputs"]
    targets: Int[Tensor, " n"]
    ids: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse logits that are not finite: every number made from them would be wrong."""
        bad = int((~torch.isfinite(self.logits)).any(dim=1).sum())
        if bad:
            raise Anomalous(f"The model's outputs are not finite for {bad} of {len(self.ids)} samples.", "No metric is defined on them.")

    def __len__(self) -> int:
        """How many samples."""
        return len(self.ids)

    @property
    def probabilities(self) -> Float[Tensor, "n outputs"]:
        """Softmax of the logits, float64."""
        return torch.softmax(self.logits.double(), dim=1)

    @property
    def labels(self) -> Int[Tensor, " n"]:
        """Predicted labels (argmax; the lowest label wins a tie)."""
        return self.logits.argmax(dim=1)

    @property
    def correct(self) -> Bool[Tensor, " n"]:
        """Where the predicted label is the true one."""
        return self.labels == self.targets
