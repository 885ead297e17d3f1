"""Samples: one split of a dataset, in memory: inputs, targets, ids and the groups each sample belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, Literal

import torch
from torch import Tensor

from sparsify_cli.errors import BadData

Kind = Literal["classes", "attributes", "tokens", "numbers"]
"""What a network is asked about a sample: its class; yes or no about several attributes; the token at each place of a text; numbers."""


@dataclass(frozen=True, eq=False)
class Samples:
    """One split of a dataset.

    Args:
        inputs: [n, ...], float32, already scaled as the network expects them.
        targets: [n] int64 class labels; or [n, a] of 0 and 1, whether it has each of a attributes; or [n, t] ids of tokens, those
            below 0 not counted; or [n, ...] float32 numbers.
        ids: n unique names, one for each sample; they survive shuffling and go to every report.
        groups: column -> n values, e.g. {"slant": ("left", "right", ...)}.
        classes: names of the classes, by label, or of the attributes; of texts the words of the vocabulary, by token.
        texts: the targets are tokens; what else they are is seen by their type and shape.
    """

    inputs: Tensor
    targets: Tensor
    ids: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    texts: bool = False

    def __post_init__(self) -> None:
        """Check once that every column has one value a sample."""
        n = len(self.inputs)
        columns = {"targets": len(self.targets), "ids": len(self.ids), **{f"groups.{k}": len(v) for k, v in self.groups.items()}}
        wrong = {name: size for name, size in columns.items() if size != n}
        if wrong:
            raise BadData(f"The data has {n} inputs but {wrong}.", "Every column needs one value a sample.")
        if len(set(self.ids)) != n:
            raise BadData(f"Sample ids repeat: {n - len(set(self.ids))} of {n} are duplicates.", "An id names one sample.")

    def __len__(self) -> int:
        """How many samples."""
        return len(self.inputs)

    @property
    def kind(self) -> Kind:
        """What the targets are."""
        if self.texts or self.targets.is_floating_point():
            return "tokens" if self.texts else "numbers"
        return "attributes" if self.targets.ndim == 2 else "classes"

    @property
    def has_attributes(self) -> bool:
        """True where a sample has several yes-or-no attributes instead of one label."""
        return self.kind == "attributes"

    @property
    def chooses(self) -> bool:
        """True where an answer is one of a few choices: classes or attributes."""
        return self.kind in ("classes", "attributes")

    @property
    def outputs(self) -> int:
        """How many outputs a network needs: one for every class or token (named ones, or the largest plus one), attribute or number."""
        if self.kind in ("attributes", "numbers"):
            return self.targets[0].numel() if len(self) else 0
        return len(self.classes) or (int(self.targets.max()) + 1 if len(self) else 0)

    def take(self, positions: Tensor | Sequence[int]) -> Samples:
        """The samples at `positions` (indices), in that order."""
        index = torch.as_tensor(positions, dtype=torch.int64)
        where = index.tolist()
        return Samples(
            inputs=self.inputs[index],
            targets=self.targets[index],
            ids=_picked(self.ids, where),
            groups={name: _picked(values, where) for name, values in self.groups.items()},
            classes=self.classes,
            texts=self.texts,
        )

    def describe(self) -> dict[str, Any]:
        """Size, input shape and group columns, for manifests and reports."""
        return {"n": len(self), "shape": list(self.inputs.shape[1:]), "outputs": self.outputs, "groups": sorted(self.groups)}


def _picked(values: tuple[str, ...], where: Sequence[int]) -> tuple[str, ...]:
    """The values at some positions; tens of thousands are picked for every draw, and a loop of Python takes four times as long."""
    return itemgetter(*where)(values) if len(where) > 1 else tuple(values[one] for one in where)
