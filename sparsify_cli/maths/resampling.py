"""Intervals for metrics whose samples contribute few distinct numbers, and for those where nothing varies.

A mean over samples is resampled by `intervals.bootstrap_mean`. Where the samples contribute only a few distinct numbers (one for
each pair of true and predicted label, or each group) it is enough to draw how often each of them comes up, which is the same
distribution: the counts of n draws with replacement are multinomial. That is hundreds of times faster and makes metrics of forty
attributes affordable.

Source: Efron 1979 (Annals of Statistics 7, 1), widened by sqrt(n / (n - 1)) as in maths/intervals.py; drawing counts is standard.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sparsify_cli.maths.comparison import Comparison
from sparsify_cli.maths.intervals import Estimate, bootstrap_mean
from sparsify_cli.values.report import Finding

FEW = 300
"""Up to so many distinct numbers are drawn as counts."""

NO_SPREAD = "no spread between samples, so no interval can be estimated"


def resampled_mean(values: Float[Tensor, " n"], *, seed: int = 0, resamples: int = 1000) -> Estimate:
    """Mean of `values` with a bootstrap interval; the same values in any order give the same one.

    Args:
        values: one number a sample, at least one.
        seed: of the resampling.
        resamples: how many means are drawn.
    """
    kinds, counts = (t.numpy() for t in values.double().unique(return_counts=True))
    if len(kinds) > FEW:
        return bootstrap_mean(values, seed=seed, resamples=resamples)
    n = int(counts.sum())
    draws = np.random.default_rng(seed).multinomial(n, counts / n, size=resamples)
    low, high = np.quantile(draws @ kinds / n, [0.025, 0.975])
    mean, wider = float(counts @ kinds) / n, math.sqrt(n / (n - 1)) if n > 1 else 1.0
    return Estimate(mean, mean + wider * min(float(low) - mean, 0.0), mean + wider * max(float(high) - mean, 0.0))


def resampled_findings(
    comparison: Comparison, compressed: Float[Tensor, " n"], dense: Float[Tensor, " n"] | None = None, *, scope: str = "all"
) -> list[Finding]:
    """As `Comparison.findings`, for contributions of which few differ; an interval without width is left out.

    Args:
        comparison: how findings are made.
        compressed: one number a sample.
        dense: the same for the dense model on the same samples, or None.
        scope: as in `Finding`.
    """
    n = len(compressed)
    found = [comparison.finding("compressed", lambda: _within(resampled_mean(compressed), comparison.bounds), n, scope)]
    if dense is not None:
        found.append(comparison.finding("dense", lambda: _within(resampled_mean(dense), comparison.bounds), n, scope))
        found.append(comparison.finding("change", lambda: resampled_mean(compressed - dense), n, scope))
    return [without_empty_interval(finding) for finding in found]


def without_empty_interval(finding: Finding) -> Finding:
    """An interval without width claims a certainty that no spread between a few samples can give: it is left out, and the note says so."""
    if finding.value is None or finding.low is None or finding.high is None or finding.high - finding.low > 1e-12:
        return finding
    return replace(finding, low=None, high=None, note="; ".join(part for part in (finding.note, NO_SPREAD) if part))


def _within(found: Estimate, bounds: tuple[float, float]) -> Estimate:
    """The same inside the range of the metric; rounding may have put even the value a hair outside."""
    low, high = bounds
    value = min(max(found.value, low), high)
    return Estimate(value, min(max(found.low, low), value), max(min(found.high, high), value))
