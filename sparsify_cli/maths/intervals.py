"""95 % intervals: how far a number could be off because the test set is only a sample.

    wilson              a share of samples            score interval, no normal shortcut at 0 % and 100 %
    paired_difference   a share on the same samples   score interval of the difference, needs only the discordant pairs
    bootstrap_mean      the mean of any number        seeded percentile bootstrap; normal above 20 000 samples
    independent_difference   two shares of different samples, from their own intervals

Paired and unpaired are not interchangeable: two models tested on the same samples mostly fail on the same ones, and an
unpaired interval is then several times too wide. Tango's interval is chosen for the paired case because it stays inside
[-1, 1], is not zero-width when no answer changed, and equals Wilson's idea (invert the score test) for pairs.

Source: Wilson 1927 (JASA 22, 209); Tango 1998 (Statistics in Medicine 17, 891), equations for the restricted maximum likelihood
estimate, solved here by bisection; Efron 1979 (Annals of Statistics 7, 1), widened by sqrt(n / (n - 1)) after Hesterberg
2015 (American Statistician 69, 371); Newcombe 1998 (Statistics in Medicine 17, 873), method 10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Z = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

HALVINGS = 42
"""Bisections from at most 2 down to 1e-12."""

RESAMPLED_UP_TO = 20_000
"""Above this many values the mean is normal to within a percent of the interval's width, and resampling is only slow."""


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def wilson(successes: int, n: int) -> Estimate:
    """Share of successes: every p with |p_hat - p| <= z sqrt(p (1 - p) / n).

    Args:
        successes: how many of `n`.
        n: samples, at least 1.
    """
    p = successes / n
    centre = (p + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return Estimate(p, max(0.0, centre - half) if successes else 0.0, min(1.0, centre + half) if successes < n else 1.0)


@lru_cache(maxsize=4096)
def tango(gained: int, lost: int, n: int) -> Estimate:
    """Difference of two shares of the same samples, (gained - lost) / n.

    Args:
        gained: samples with the property after, not before.
        lost: samples with the property before, not after.
        n: all samples, at least 1.
    """
    value = (gained - lost) / n
    above = _last_accepted(lambda d: _score(gained, lost, n, d), value)
    below = _last_accepted(lambda d: _score(lost, gained, n, d), -value)
    return Estimate(value, -below, above)


def paired_difference(after: Bool[Tensor, " n"], before: Bool[Tensor, " n"]) -> Estimate:
    """Share of `after` minus share of `before`, sample i of one being sample i of the other."""
    gained, lost = int((after & ~before).sum()), int((~after & before).sum())
    return tango(gained, lost, len(after))


def independent_difference(first: Estimate, second: Estimate) -> Estimate:
    """`first` - `second`, two numbers estimated on different samples."""
    value = first.value - second.value
    down = math.hypot(first.value - first.low, second.high - second.value)
    up = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - down, value + up)


def bootstrap_mean(values: Float[Tensor, " n"], *, seed: int = 0, resamples: int = 1000) -> Estimate:
    """Mean of `values`; the same values in any order give the same interval.

    Args:
        values: one number a sample, at least one; for a change, the differences sample by sample.
        seed: of the resampling.
        resamples: how many means are drawn.
    """
    ordered = values.double().sort().values
    mean, n = float(ordered.mean()), len(ordered)
    if n > RESAMPLED_UP_TO:
        half = Z * float(ordered.std()) / math.sqrt(n)
        return Estimate(mean, mean - half, mean + half)
    means = _resampled_means(ordered, seed, resamples)
    low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    wider = math.sqrt(n / (n - 1)) if n > 1 else 1.0
    return Estimate(mean, mean + wider * min(low - mean, 0.0), mean + wider * max(high - mean, 0.0))


def _score(gained: int, lost: int, n: int, d: float) -> float:
    """Tango's statistic at difference `d` in (-1, 1), with the cell `lost` at its maximum likelihood under `d`."""
    a = 2 * n
    b = (2 * n - gained + lost) * d - gained - lost
    c = -lost * d * (1 - d)
    q = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * q + d * (1 - d))
    distance = gained - lost - n * d
    return distance / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, distance)


def _last_accepted(score: Callable[[float], float], value: float) -> float:
    """The largest difference that the test does not reject, by bisection between `value` and 1."""
    low, high = value, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if score(middle) > -Z else (low, middle)
    return low


def _resampled_means(ordered: Float[Tensor, " n"], seed: int, resamples: int) -> Float[Tensor, " resamples"]:
    """Means of the drawings; around the mean and in units of the farthest value, so that float32 errs by a ten-millionth of that."""
    mean = ordered.mean()
    farthest = (ordered - mean).abs().amax()
    if not farthest > 0:
        return mean.expand(resamples)
    around = ((ordered - mean) / farthest).float()
    sums = [block @ around for block in _as_floats(len(ordered), seed, resamples).split(100)]
    return mean + farthest * torch.cat(sums).double() / len(ordered)


@lru_cache(maxsize=1)
def _as_floats(n: int, seed: int, resamples: int) -> Float[Tensor, "resamples n"]:
    """The counts as what products take: 80 MB for 20,000 samples, and making them is half of a product."""
    return _resample_counts(n, seed, resamples).float()


@lru_cache(maxsize=16)
def _resample_counts(n: int, seed: int, resamples: int) -> UInt8[Tensor, "resamples n"]:
    """How often each sample is drawn; the numbers of one report about as many samples share the draws."""
    generator = torch.Generator().manual_seed(seed)
    block = max(1, RESAMPLED_UP_TO * 3 // n)
    sizes = [min(block, resamples - done) for done in range(0, resamples, block)]
    return torch.cat([_drawn(n, size, generator) for size in sizes])


def _drawn(n: int, resamples: int, generator: torch.Generator) -> UInt8[Tensor, "resamples n"]:
    """Counts of `resamples` drawings of n out of n with replacement; none is near 255."""
    drawn = torch.randint(n, (resamples, n), generator=generator) + n * torch.arange(resamples)[:, None]
    return torch.bincount(drawn.flatten(), minlength=resamples * n).to(torch.uint8).reshape(resamples, n)
