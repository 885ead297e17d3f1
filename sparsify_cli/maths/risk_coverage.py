"""Answering only where the model is sure: risk among the most confident samples, and what each sample contributes to it.

With the confidence k_i of a sample, e_i = 1 where the answer is wrong, N(k) samples at least as confident as k and R(k) the share
of them that is answered wrongly, the area under the risk-coverage curve is

    AURC = mean_i R(k_i)         contribution of sample j: R(k_j) + sum over i with k_i <= k_j of (e_j - R(k_i)) / N(k_i)

Samples of equal confidence cannot be told apart by a threshold, so they are covered together and their order does not matter. The
contributions have AURC as their exact mean and its influence function as their deviations.

At a fixed coverage c the ceil(c n) most confident samples are answered; where the cut falls among equally confident ones each of
them counts in part, which is the mean over all ways to choose. Contributions there deviate by (w_j / c) (a_j - A), with w_j the
part in which sample j is answered, a_j = 1 where it is right, and A the accuracy around the cut (5 % of the samples on either
side), since the cut moves as well.

Source: Geifman, Uziel, El-Yaniv 2019 (arXiv 1805.08206), AURC over the thresholds that the samples themselves set;
coverage and selective risk from El-Yaniv and Wiener 2010 (JMLR 11, 1605). Contributions, ours, by the influence function.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

AROUND = 0.05
"""Share of the samples on either side of a cut that say how accurate the model is there."""


class _Levels(NamedTuple):
    """Distinct confidences, falling."""

    of_sample: Int[Tensor, " n"]
    size: Float[Tensor, " levels"]
    hits: Float[Tensor, " levels"]


def _levels(confidence: Float[Tensor, " n"], right: Bool[Tensor, " n"]) -> _Levels:
    of = torch.unique(-confidence, return_inverse=True)[1]
    return _Levels(of, torch.bincount(of).double(), torch.bincount(of, weights=right.double()))


def risk_coverage_contributions(confidence: Float[Tensor, " n"], correct: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
    """One number a sample; their mean is the area under the risk-coverage curve."""
    of, count, errors = _levels(confidence, ~correct)
    covered = count.cumsum(0)
    risk = errors.cumsum(0) / covered
    below = _from_here_on(count / covered)
    below_risk = _from_here_on(count * risk / covered)
    return risk[of] + (~correct) * below[of] - below_risk[of]


def selective_contributions(confidence: Float[Tensor, " n"], correct: Bool[Tensor, " n"], coverage: float) -> Float[Tensor, " n"]:
    """One number a sample; their mean is the accuracy on the most confident samples.

    Args:
        confidence: higher = answered sooner.
        correct: where the answer is right.
        coverage: share of the samples that is answered, in (0, 1].
    """
    of, count, hits = _levels(confidence, correct)
    n, k = len(correct), answered(len(correct), coverage)
    parts = ((k - (count.cumsum(0) - count)) / count).clamp(0, 1)
    near = max(AROUND * n, 1.0)
    first, last = max(k - near, 0.0), min(k + near, float(n))
    at_cut = (_hits_within(count, hits, last) - _hits_within(count, hits, first)) / (last - first)
    return at_cut + n / k * parts[of] * (correct.double() - at_cut)


def answered(n: int, coverage: float) -> int:
    """How many of `n` samples are answered at this coverage, at least one."""
    return max(math.ceil(round(coverage * n, 6)), 1)


def _hits_within(count: Float[Tensor, " levels"], hits: Float[Tensor, " levels"], k: float) -> float:
    """Right answers among the k most confident samples; equally confident ones count in part."""
    parts = ((k - (count.cumsum(0) - count)) / count).clamp(0, 1)
    return float((parts * hits).sum())


def _from_here_on(values: Float[Tensor, " levels"]) -> Float[Tensor, " levels"]:
    """Sums over this level and all less confident ones."""
    return values.flip(0).cumsum(0).flip(0)
