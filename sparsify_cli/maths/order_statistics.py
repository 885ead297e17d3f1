"""Medians of repeated measurements, with their spread and an exact interval.

Timings have a long upper tail, so their median is reported and never their mean. The median of an even number of
values is the mean of the two middle ones (torch.median returns the lower one).

Source: the interval of a median from binomial ranks is in Hahn and Meeker 1991, Statistical Intervals, section 5.2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

import torch

from sparsify_cli.maths.intervals import Estimate


def spread(values: Sequence[float]) -> Estimate:
    """Median with the 5 % and 95 % quantiles of the values themselves (not an interval of the median)."""
    quantiles = torch.quantile(torch.tensor(values, dtype=torch.float64), torch.tensor([0.05, 0.95], dtype=torch.float64))
    low, high = quantiles.tolist()
    return Estimate(median(values), low, high)


def median_interval(values: Sequence[float]) -> Estimate | None:
    """Median with an interval that holds the true median with at least 95 %, whatever the distribution.

    Returns:
        The interval between two of the values, or None when even the extremes hold it too rarely (fewer than 6 values).
    """
    ordered, rank = sorted(values), _outer_rank(len(values))
    if rank is None:
        return None
    return Estimate(median(ordered), ordered[rank], ordered[-1 - rank])


def _outer_rank(n: int) -> int | None:
    """Largest r, counted from 0, with P(at most r of n values fall below the median) <= 2.5 %."""
    tail, rank = 0.0, None
    for below in range(n):
        tail += math.comb(n, below) / 2**n
        if tail > 0.025:
            return rank
        rank = below
    return rank
