"""Predictions written by hand, and drawn by hypothesis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


@st.composite
def model_pairs(draw, least: int = 12, most: int = 60) -> tuple[Predictions, Predictions]:
    """A compressed model and its dense ancestor over the same samples: 2 to 5 classes, each present, two groups, ties of confidence."""
    n, outputs = draw(st.integers(least, most)), draw(st.integers(2, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    targets = torch.arange(n) % outputs
    sides = tuple("left" if i % 3 else "right" for i in range(n))
    scale = draw(st.sampled_from([0.5, 2.0, 8.0]))

    def model() -> Predictions:
        logits = (torch.randn(n, outputs, generator=generator) * scale).round(decimals=1) + torch.nn.functional.one_hot(targets, outputs)
        return Predictions(logits, targets, tuple(f"s{i}" for i in range(n)), {"side": sides}, tuple("abcde"[:outputs]))

    return model(), model()
