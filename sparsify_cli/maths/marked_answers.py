"""Shares of answers that are marked (at risk, changed, unsure), where a sample may hold several answers.

    share  = |top and of| / |of|              lift = share / (|top| / |all|)

The answers of one sample about its attributes hang together, so samples are drawn, with all their answers, and what a lift is divided by is
drawn along. A share of samples with one answer each has Wilson's interval; so has, over the samples that have a marked answer, one in which
no draw differs from another.

Source: Wilson 1927; Efron 1979, percentile bootstrap of whole samples (see `resampled_totals.py`).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.maths.intervals import Estimate, wilson
from sparsify_cli.maths.resampled_totals import ROUNDING, content_order, resampled_totals

Marks = Bool[Tensor, "n answers"]
"""One row a sample."""


def by_sample(marked: Bool[Tensor, " m"], samples: int) -> Marks:
    """Marks of all answers, sample by sample, as one row a sample."""
    return marked.reshape(samples, -1 if samples else 1)


def share(top: Marks, of: Marks) -> Estimate:
    """Share of the answers in `of`, at least one, that are in `top`."""
    value = int((top & of).sum()) / int(of.sum())
    if of.shape[1] == 1:
        return wilson(int((top & of).sum()), int(of.sum()))
    drawn = _totals(top, of)
    return _between(value, drawn[:, 0] / drawn[:, 1], int(of.any(dim=1).sum()))


def lift(top: Marks, of: Marks) -> Estimate:
    """How many times as often answers in `of` are in `top` as all answers, of which some are."""
    base, drawn = float(top.double().mean()), _totals(top, of)
    value = share(top, of).value / base
    found = drawn[:, 0] / drawn[:, 1] * drawn[:, 3] / drawn[:, 2]
    low, high = _ends(found)
    return Estimate(value, min(low, value), max(high, value))


def count(marked: Marks) -> Estimate:
    """How many answers are marked, as another test set of as many samples would have it."""
    whole = torch.ones_like(marked)
    found, n = share(marked, whole), marked.numel()
    return Estimate(float(marked.sum()), n * found.low, n * found.high)


def _totals(top: Marks, of: Marks) -> Float[Tensor, "resamples 4"]:
    """Of each draw: answers in both, in `of`, in `top`, and all."""
    marks = torch.stack([top & of, of, top, torch.ones_like(of)], dim=2)
    return resampled_totals(marks.sum(dim=1), content_order(torch.cat([top, of], dim=1))).double()


def _between(value: float, drawn: Float[Tensor, " resamples"], samples: int) -> Estimate:
    low, high = _ends(drawn)
    if high - low < ROUNDING:
        return wilson(round(value * samples), samples)
    return Estimate(value, min(low, value), max(high, value))


def _ends(drawn: Float[Tensor, " resamples"]) -> tuple[float, float]:
    low, high = torch.quantile(drawn[drawn.isfinite()], torch.tensor([0.025, 0.975], dtype=drawn.dtype)).tolist()
    return low, high
