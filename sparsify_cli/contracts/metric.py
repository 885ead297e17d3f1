"""The promise of a metric: findings from predictions, with their definition and source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

from jaxtyping import Int
from torch import Tensor

from sparsify_cli.values.positions import Positions
from sparsify_cli.values.predictions import Predictions
from sparsify_cli.values.report import Finding
from sparsify_cli.values.samples import Kind


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of a training set: what a model could have learned to exaggerate.

    Args:
        targets: labels [n], or attributes [n, a].
        groups: column -> one value a sample.
    """

    targets: Int[Tensor, "n *a"]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a metric may look at.

    Args:
        compressed: populations (one or more seeds) of the model under test; at least one, here or among the positions.
        dense: populations of its dense ancestor, over the same samples in the same order; may be empty.
        train_marginals: label -> share of the training set, or attribute -> share that has it; empty when unknown.
        train: what is true of the training set; None when unknown.
        positions: instead of `compressed`, where models answer with texts or numbers.
        dense_positions: instead of `dense`.
    """

    compressed: tuple[Predictions, ...] = ()
    dense: tuple[Predictions, ...] = ()
    train_marginals: tuple[float, ...] = ()
    train: Truth | None = None
    positions: tuple[Positions, ...] = ()
    dense_positions: tuple[Positions, ...] = ()

    @property
    def kind(self) -> Kind:
        """What the models answer."""
        if self.positions:
            return self.positions[0].kind
        return "attributes" if self.compressed and self.compressed[0].has_attributes else "classes"

    @property
    def sides(self) -> tuple[tuple[Positions, ...], tuple[Positions, ...]]:
        """What models under test, and dense ones, said in texts or numbers."""
        return self.positions, self.dense_positions

    def of_attribute(self, position: int) -> Evidence:
        """The same about one attribute, as a choice between no and yes."""
        compressed, dense = (tuple(one.of_attribute(position) for one in side) for side in (self.compressed, self.dense))
        share = self.train_marginals[position : position + 1]
        train = None if self.train is None else replace(self.train, targets=self.train.targets[:, position])
        return Evidence(compressed, dense, (1 - share[0], share[0]) if share else (), train)


class Metric(ABC):
    """Measures one thing. A frozen dataclass; its fields are its options.

    The module docstring is the plain-words definition; `Source:` names the paper.
    """

    needs: frozenset[str] = frozenset()
    """Evidence beyond `compressed` it cannot do without: "dense", "train", "attributes" (predictions of attributes, seen whole)."""

    kinds: frozenset[Kind] = frozenset(("classes", "attributes"))
    """Kinds of answers it is defined for."""

    each_attribute: ClassVar[bool] = True
    """Of attributes, also measured for each alone."""

    @abstractmethod
    def measure(self, evidence: Evidence) -> list[Finding]:
        """Findings about the compressed model, and, when dense predictions are there, about the dense one and the change.

        Returns "not enough data" (value None and a note) instead of a number that means nothing.
        """
