"""Predictions: one pass of one model over one split, and everything a metric may ask about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from sparsify_cli.errors import Anomalous
from sparsify_cli.values.choices import choices, options

SMALL = 10**6
"""Logits whose probabilities are kept: 8 MB; of a thousand classes they would fill memory."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model said about a split; it does not know the model.

    Args:
        logits: float32, one row a sample.
        targets: true labels, or 0 and 1 for every attribute.
        ids: names of the samples, in row order.
        groups: column -> one value a sample.
        classes: names of the classes, by label, or of the attributes.
    """

    logits: Float[Tensor, "n outputs"]
    targets: Int[Tensor, "n *a"]
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
    def has_attributes(self) -> bool:
        """True where the outputs are yes-or-no attributes instead of classes."""
        return self.targets.ndim == 2

    @property
    def probabilities(self) -> Float[Tensor, "n outputs"]:
        """Softmax of the logits, or of attributes the probability of each, float64; kept where it is small."""
        return self._kept if self.logits.numel() <= SMALL else self._probabilities()

    @cached_property
    def _kept(self) -> Float[Tensor, "n outputs"]:
        return self._probabilities()

    def _probabilities(self) -> Float[Tensor, "n outputs"]:
        return self.logits.double().sigmoid() if self.has_attributes else torch.softmax(self.logits.double(), dim=1)

    @property
    def chances(self) -> Float[Tensor, "n outputs"]:
        """Probabilities of every option: as `probabilities`, or yes and no of each attribute, all divided so that rows sum to 1."""
        if not self.has_attributes:
            return self.probabilities
        yes, share = self.probabilities, self.logits.shape[1]
        return torch.cat([yes, 1 - yes], dim=1) / share

    @cached_property
    def labels(self) -> Int[Tensor, "n *a"]:
        """Predicted labels (argmax; the lowest label wins a tie), or 1 for every attribute that is likelier than not."""
        return (self.logits > 0).long() if self.has_attributes else self.logits.argmax(dim=1)

    @property
    def correct(self) -> Shaped[Tensor, " n"]:
        """Where the predicted label is the true one; of attributes the share that is right."""
        right = self.labels == self.targets
        return right.double().mean(dim=1) if self.has_attributes else right

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes, by output; none for classes."""
        named = self.classes or tuple(map(str, range(self.logits.shape[1])))
        return named if self.has_attributes else ()

    def of_attribute(self, position: int) -> Predictions:
        """The same about one attribute, as a choice between two classes, no and yes."""
        return self._each_attribute[position]

    @cached_property
    def _each_attribute(self) -> tuple[Predictions, ...]:
        """Made once, because every metric asks for every attribute."""
        logits = (options(column, attributes=True) for column in self.logits.split(1, dim=1))
        return tuple(Predictions(pair, self.targets[:, i], self.ids, self.groups, ("no", "yes")) for i, pair in enumerate(logits))

    def every_answer(self) -> Predictions:
        """The same with a row for every attribute of every sample; itself for classes."""
        if not self.has_attributes:
            return self
        names = tuple(f"{name}: {attribute}" for name in self.ids for attribute in self.attributes)
        return Predictions(*choices(self.logits, self.targets), names, classes=("no", "yes"))
