"""Bootstrap of numbers that are not means over samples: totals of resampled test sets, and percentile intervals.

A ratio of counts, or the mean of many such ratios, needs of a resampled test set only its totals. All totals of one resample come from
the same draw, so whatever is compared on it (two models, forty attributes) stays paired.

Above 5000 samples it is not samples that are drawn but 5000 random blocks of them, of equal size up to one: the total of a block
varies as a sum of that many independent samples does, so the spread of the totals is the same and the work stays bounded. Which
samples share a block depends on a fixed seed and on what the samples hold, never on their order.

Source: Efron 1979 (Annals of Statistics 7, 1), percentile bootstrap; the random blocks are ours, in the manner of the delete-a-group
jackknife.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from sparsify_cli.values.report import Finding

BLOCKS = 5000
RESAMPLES = 1000
UNDEFINED = 0.025
"""Share of resamples that may leave a number undefined; beyond it an end of the interval is not known."""

ROUNDING = 1e-12
"""An interval narrower than this has no width; it would claim certainty."""


def content_order(rows: Shaped[Tensor, "n k"]) -> Int[Tensor, " n"]:
    """A random order with a fixed seed that is the same for the same rows, wherever they stand; equal rows are interchangeable.

    Args:
        rows: everything that is known of each sample and enters the numbers; whole numbers or bits, at least one column.
    """
    plain = rows.numpy()
    packed = np.ascontiguousarray(np.packbits(plain, axis=1) if plain.dtype == np.bool_ else plain)
    keys = packed.view(np.dtype((np.void, packed.shape[1] * packed.itemsize)))[:, 0]
    ordered = torch.from_numpy(keys.argsort(kind="stable"))
    return ordered[torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))]


def resampled_totals(values: Shaped[Tensor, "n k"], order: Int[Tensor, " n"]) -> Float[Tensor, "resamples k"]:
    """Totals of the columns in each resample; the same order gives the same draws.

    Args:
        values: one row a sample. Bits and small whole numbers (totals below 2^24) are added exactly.
        order: of `content_order`, from rows that hold at least what `values` is made from.
    """
    precise = torch.float64 if values.is_floating_point() else torch.float32
    drawn = _drawn(min(len(values), BLOCKS))
    parts = [_multiplied(drawn, _block_sums(part, order, precise)) for part in values.split(256, dim=1)]
    return torch.cat(parts, dim=1)


def with_interval(finding: Finding, drawn: Float[Tensor, " resamples"]) -> Finding:
    """The finding with a 95 % percentile interval, or with a note why there is none.

    Args:
        finding: with its value.
        drawn: the same number in each resample; NaN where it is undefined.
    """
    there = drawn[~drawn.isnan()]
    if len(drawn) - len(there) > UNDEFINED * len(drawn):
        return noted(finding, "too few samples to estimate an interval")
    low, high = torch.quantile(there, torch.tensor([0.025, 0.975], dtype=there.dtype)).tolist()
    if finding.value is None or high - low < ROUNDING:
        return noted(finding, "no spread between samples, so no interval can be estimated")
    return replace(finding, low=min(low, finding.value), high=max(high, finding.value))


def noted(finding: Finding, *notes: str) -> Finding:
    """The finding with more notes behind its own; empty ones leave no trace."""
    return replace(finding, note="; ".join(note for note in (finding.note, *notes) if note))


def _block_sums(values: Shaped[Tensor, "n k"], order: Int[Tensor, " n"], precise: torch.dtype) -> Float[Tensor, "blocks k"]:
    n, blocks = len(values), min(len(values), BLOCKS)
    sums = torch.zeros(blocks, values.shape[1], dtype=precise)
    return sums.index_add_(0, torch.arange(n) % blocks, values[order].to(precise))


def _multiplied(drawn: UInt8[Tensor, "resamples blocks"], sums: Float[Tensor, "blocks k"]) -> Float[Tensor, "resamples k"]:
    return torch.cat([part.to(sums.dtype) @ sums for part in drawn.split(100)]).double()


@lru_cache(maxsize=1)
def _drawn(blocks: int) -> UInt8[Tensor, "resamples blocks"]:
    """How often each block is drawn; drawn once, because every number of one report has as many samples."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randint(blocks, (blocks,), generator=generator) for _ in range(RESAMPLES)]
    return torch.stack([torch.bincount(row, minlength=blocks).to(torch.uint8) for row in rows])
