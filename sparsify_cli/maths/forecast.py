"""What the dense model alone says of compression: which answers are at risk, and which attributes' bias.

    susceptible    answers whose probability lies in (1 - below, below): compression-identified exemplars concentrate there
    risk(a, I)     uncertainty of a  x  |P_train(a | I) - P_train(a | not I)|: what the model is unsure of, and can guess from the group

The score of a forecast, once a compressed model is there, C = answers that changed, S = susceptible ones, n answers:

    precision = |S and C| / |S|      recall = |S and C| / |C|      lift = recall / (|S| / n)

with the intervals of `marked_answers.py`.

The bias of the pairs (a, I) with at least the median risk is foretold to grow; with S these pairs and C those whose bias amplification grew
beyond noise the same scores are theirs. And, over pairs whose bias amplification is defined before and after, the rank correlation of the
risk with its change. Its interval is Fisher's, with 1.06 / (n - 3) as variance, for n pairs as if they were independent, which pairs of
one attribute are not.

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622), criteria from the dense model; the product of both and the scores are ours. Rank
correlation: Spearman 1904; its variance: Fieller, Hartley, Pearson 1957.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.maths import marked_answers
from sparsify_cli.maths.intervals import Estimate, Z
from sparsify_cli.maths.marked_answers import Marks

BELOW = 0.9
"""Probability of the likelier answer below which an answer is susceptible."""
LEAST = 10
"""Answers, or pairs, below which a score is not told."""


@dataclass(frozen=True)
class Risk:
    """What is foretold of one attribute, or class, and one way to group people.

    Args:
        scope: as bias amplification has it: `attribute:<a>@<column>=<favoured value>`.
        uncertainty: share of samples the dense model is unsure of.
        gap: difference of the shares of the attribute in both groups of the training set.
    """

    scope: str
    uncertainty: float
    gap: float

    @property
    def risk(self) -> float:
        """Their product."""
        return self.uncertainty * self.gap


def susceptible(probabilities: Float[Tensor, "m options"], *, below: float = BELOW) -> Bool[Tensor, " m"]:
    """Answers of which the model is unsure.

    Args:
        probabilities: of every option, rows sum to 1.
        below: the likelier option's probability is below this.
    """
    return probabilities.amax(dim=1) < below


def foretold(risks: Sequence[float]) -> list[bool]:
    """Pairs whose bias is foretold to grow: at least the median risk, and some."""
    middle = float(torch.tensor(risks, dtype=torch.float64).quantile(0.5)) if risks else 0.0
    return [risk >= middle and risk > 0 for risk in risks]


def precision(at_risk: Marks, changed: Marks) -> Estimate | None:
    """Share of susceptible answers that changed; None with too few susceptible ones."""
    return marked_answers.share(changed, at_risk) if int(at_risk.sum()) >= LEAST else None


def recall(at_risk: Marks, changed: Marks) -> Estimate | None:
    """Share of changed answers that were susceptible; None with too few changed ones."""
    return marked_answers.share(at_risk, changed) if int(changed.sum()) >= LEAST else None


def lift(at_risk: Marks, changed: Marks) -> Estimate | None:
    """How many times more susceptible changed answers were than all; None with too few changed ones, or nothing at risk."""
    return marked_answers.lift(at_risk, changed) if int(changed.sum()) >= LEAST and bool(at_risk.any()) else None


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> Estimate | None:
    """Spearman's, ties by mean ranks; None with too few pairs or where one side does not vary."""
    if len(one) < LEAST:
        return None
    ranks = torch.stack([_ranks(torch.tensor(side, dtype=torch.float64)) for side in (one, other)])
    if bool((ranks.std(dim=1) == 0).any()):
        return None
    value = float(torch.corrcoef(ranks)[0, 1].clamp(-1, 1))
    if abs(value) == 1:
        return Estimate(value, value, value)
    middle, half = math.atanh(value), Z * math.sqrt(1.06 / (len(one) - 3))
    return Estimate(value, math.tanh(middle - half), math.tanh(middle + half))


def _ranks(values: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 ... n; equal values share the mean of their ranks."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    mean: Tensor = (last - counts + 1 + last) / 2
    return mean[place]
