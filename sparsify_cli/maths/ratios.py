"""Ratios of totals over samples (nats a token, squared error a number) as means over samples, so that intervals and changes follow.

A text has many tokens, and they hang together; samples are what is drawn. Of a ratio r = sum(a_i) / sum(b_i) each sample's contribution is

    c_i = r + n (a_i - r b_i) / sum(b)

whose mean is r and whose spread is that of r to first order. A smooth function f of r has the contributions f(r) + f'(r) (c_i - r).

Source: linearisation of a ratio (delta method), Cochran 1977, Sampling Techniques, section 6; intervals as in maths/comparison.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.maths.comparison import Comparison, seeds_note
from sparsify_cli.values.positions import Positions
from sparsify_cli.values.report import Finding

Totals = Callable[[Positions], tuple[Tensor, Tensor]]
"""Numerator and denominator of each sample, [n] each."""

TotalsOfTwo = Callable[[Positions, Positions], tuple[Tensor, Tensor]]
"""The same of a dense model and of the one under test."""

Sides = tuple[Sequence[Positions], Sequence[Positions]]
"""Models under test, at least one, and dense ones."""


@dataclass(frozen=True)
class Shape:
    """A smooth function of a ratio, and its slope."""

    value: Callable[[float], float]
    slope: Callable[[float], float]


LARGEST = 300.0
"""Beyond it an exponential means nothing but that all is lost, and would overflow."""

RATIO = Shape(lambda r: r, lambda _: 1.0)
EXPONENTIAL = Shape(lambda r: math.exp(min(r, LARGEST)), lambda r: math.exp(min(r, LARGEST)))
ROOT = Shape(lambda r: math.sqrt(max(r, 0.0)), lambda r: 0.5 / math.sqrt(r) if r > 0 else 0.0)


def losses(positions: Positions) -> tuple[Tensor, Tensor]:
    """Losses (nats, or squared errors), and positions that count, of each sample."""
    return positions.total(positions.losses), positions.counts


def contributions(above: Float[Tensor, " n"], below: Float[Tensor, " n"], shape: Shape = RATIO) -> Float[Tensor, " n"]:
    """Numbers whose mean is the (function of the) ratio of the totals; NaN where nothing is below.

    Args:
        above: numerator of each sample.
        below: denominator of each sample, >= 0.
        shape: what is made of the ratio.
    """
    total = float(below.sum())
    if not total:
        return torch.full_like(above, math.nan)
    ratio = float(above.sum()) / total
    return shape.value(ratio) + shape.slope(ratio) * len(above) * (above - ratio * below) / total


def compared(comparison: Comparison, totals: Totals, sides: Sides, shape: Shape = RATIO) -> list[Finding]:
    """Findings about all samples and each group, of the model under test, its dense ancestor and the change.

    Args:
        comparison: how findings are made.
        totals: of a model.
        sides: models under test, and dense ones.
        shape: what is made of their ratio.
    """
    found = []
    comparison = replace(comparison, about=replace(comparison.about, note=seeds_note(*sides)))
    for scope, members in scopes(sides[0][0]):
        now, before = (mean_over_models([contributions(*totals(one.of(members)), shape) for one in side]) for side in sides)
        if now is not None and not bool(now.isnan().any()):
            found += comparison.findings(now, before, scope=scope)
    return found


def against_dense(comparison: Comparison, totals: TotalsOfTwo, sides: Sides, shape: Shape = RATIO) -> list[Finding]:
    """Findings about all samples and each group, of what lies between the dense model and the one under test.

    Args:
        comparison: how findings are made.
        totals: of the dense model and the other; with several the mean over all pairs.
        sides: models under test, and dense ones.
        shape: what is made of their ratio.
    """
    found = []
    comparison = replace(comparison, about=replace(comparison.about, note=seeds_note(*sides)))
    for scope, members in scopes(sides[0][0]):
        pairs = product(*([one.of(members) for one in side] for side in sides))
        mean = mean_over_models([contributions(*totals(dense, now), shape) for now, dense in pairs])
        if mean is not None and not bool(mean.isnan().any()):
            found += comparison.findings(mean, scope=scope)
    return found


def mean_over_models(each: Sequence[Float[Tensor, " n"]]) -> Float[Tensor, " n"] | None:
    """Contributions averaged over models, sample by sample; None where there is no model."""
    return torch.stack(list(each)).mean(dim=0) if each else None


def scopes(positions: Positions) -> Iterator[tuple[str, Bool[Tensor, " n"]]]:
    """(scope, its samples): all, then each value of each group column, sorted."""
    yield "all", torch.ones(len(positions), dtype=torch.bool)
    for column in sorted(positions.groups):
        for value in sorted(set(positions.groups[column])):
            yield f"group:{column}={value}", torch.tensor([one == value for one in positions.groups[column]])
