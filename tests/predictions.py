"""Predictions written by hand, and drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st

from sparsify_cli.values.predictions import Predictions


def said(
    probabilities: Sequence[Sequence[float]],
    targets: Sequence[int],
    *,
    groups: Mapping[str, Sequence[str]] | None = None,
    classes: Sequence[str] = (),
) -> Predictions:
    """A model that gave these probabilities; 0 becomes e^-200, which rounds to 0 beside the others."""
    logits = torch.tensor(probabilities, dtype=torch.float64).log().clamp(min=-200)
    ids = tuple(f"s{i}" for i in range(len(targets)))
    columns = {name: tuple(values) for name, values in (groups or {}).items()}
    return Predictions(logits, torch.tensor(targets, dtype=torch.int64), ids, columns, tuple(classes))


def answering(labels: Sequence[int], targets: Sequence[int], *, sure: float = 0.95, **more) -> Predictions:
    """A model with three classes that answered `labels`, always with probability `sure`."""
    rest = (1 - sure) / 2
    return said([[sure if k == label else rest for k in range(3)] for label in labels], targets, **more)


def shuffled(predictions: Predictions, order: Sequence[int]) -> Predictions:
    """The same predictions, samples in another order."""
    where = torch.tensor(order)
    groups = {name: tuple(values[i] for i in order) for name, values in predictions.groups.items()}
    ids = tuple(predictions.ids[i] for i in order)
    return Predictions(predictions.logits[where], predictions.targets[where], ids, groups, predictions.classes)


@dataclass(frozen=True)
class ModelPair:
    """What hypothesis draws: a compressed model and its dense ancestor, over the same samples of 2 to 5 classes, each present."""

    n: int
    outputs: int
    seed: int
    scale: float

    def build(self) -> tuple[Predictions, Predictions]:
        """The two models; rounded logits make ties of confidence likely."""
        generator = torch.Generator().manual_seed(self.seed)
        targets = torch.arange(self.n) % self.outputs
        noise = torch.randn(2, self.n, self.outputs, generator=generator) * self.scale
        first, second = noise.round(decimals=1) + torch.nn.functional.one_hot(targets, self.outputs)
        ids = tuple(f"s{i}" for i in range(self.n))
        groups = {"side": tuple("left" if i % 3 else "right" for i in range(self.n))}
        names = tuple("abcde"[: self.outputs])
        return Predictions(first, targets, ids, groups, names), Predictions(second, targets, ids, groups, names)


def model_pairs() -> st.SearchStrategy[ModelPair]:
    """Plain numbers; `build()` makes the models, outside the strategy, because shape checks draw random numbers."""
    return st.builds(ModelPair, st.integers(12, 60), st.integers(2, 5), st.integers(0, 2**32), st.sampled_from([0.5, 2.0, 8.0]))
