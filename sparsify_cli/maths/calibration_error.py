"""Expected calibration error: how far the stated confidence is from the accuracy, bin by bin.

With bins b over the confidence c of the predicted label and a = 1 where it is correct:

    ECE = sum_b (n_b / n) |mean_b c - mean_b a| = (1 / n) sum_i s_b(i) (c_i - a_i),   s_b = sign of bin b's gap

The second form makes it a mean of one number a sample, which gives it an interval and, on the same samples, a paired one.
From few samples ECE is never 0 even for a perfect model; `calibrated_level` says what a perfect one would show.

Source: Naeini, Cooper, Hauskrecht 2015 (AAAI); Guo et al. 2017 (arXiv 1706.04599), equation 3. Bins here are closed on the left
with p = 1 in the last one. The code beside Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622) uses floor(10 p) / 10, which makes p = 1
an eleventh bin, and so does torchmetrics. Equal-mass bins: Nixon et al. 2019 (arXiv 1904.01685), with equal confidences kept in one bin.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Bin(NamedTuple):
    """One bar of a reliability diagram."""

    confidence: float
    accuracy: float
    n: int


def equal_width(confidence: Float[Tensor, " n"], bins: int) -> Int[Tensor, " n"]:
    """Bin of each confidence in [0, 1]: [k / bins, (k + 1) / bins), the last one closed."""
    return (confidence * bins).long().clamp(max=bins - 1)


def equal_mass(confidence: Float[Tensor, " n"], bins: int) -> Int[Tensor, " n"]:
    """Bins of about as many samples each; equal confidences share a bin, so the order of samples does not matter."""
    smaller = torch.searchsorted(confidence.sort().values, confidence)
    return smaller * bins // max(len(confidence), 1)


def gap_contributions(confidence: Float[Tensor, " n"], correct: Bool[Tensor, " n"], bin_of: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
    """One number a sample; their mean is the ECE."""
    gap = confidence.double() - correct.double()
    return _bin_sums(gap, bin_of).sign()[bin_of] * gap


def calibrated_level(confidence: Float[Tensor, " n"], bin_of: Int[Tensor, " n"]) -> tuple[float, float]:
    """(mean, 95 % quantile) of the ECE that a perfectly calibrated model with these confidences would show.

    Under calibration bin b's gap is normal with variance v_b = sum_b c (1 - c) / n^2, so |gap| has mean sqrt(2 v_b / pi)
    and variance v_b (1 - 2 / pi); the sum over bins is taken as normal.
    """
    c = confidence.double()
    v = _bin_sums(c * (1 - c), bin_of) / len(c) ** 2
    mean, variance = float((2 * v / math.pi).sqrt().sum()), float(v.sum()) * (1 - 2 / math.pi)
    return mean, mean + 1.6448536269514722 * math.sqrt(variance)


def reliability_bins(confidence: Float[Tensor, " n"], correct: Bool[Tensor, " n"], *, bins: int = 10) -> list[Bin]:
    """Mean confidence, accuracy and count of every non-empty equal-width bin, by rising confidence."""
    bin_of = equal_width(confidence, bins)
    members = [bin_of == index for index in range(bins)]
    return [Bin(float(confidence[m].mean()), float(correct[m].double().mean()), int(m.sum())) for m in members if m.any()]


def _bin_sums(values: Float[Tensor, " n"], bin_of: Int[Tensor, " n"]) -> Float[Tensor, " bins"]:
    return torch.bincount(bin_of, weights=values.double())
