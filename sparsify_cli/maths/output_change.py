"""How much the outputs of a network changed, relative to their scale."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparsify_cli.values.arrays import as_taken_by


@torch.no_grad()
def outputs(module: nn.Module, sample: Tensor) -> list[Tensor]:
    """Every tensor that a network returns for a sample, float64, in order."""
    return list(_tensors(module(as_taken_by(module, sample))))


def _tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in what a network returns."""
    if isinstance(value, Tensor):
        yield value.double()
    elif isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def output_change(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """The largest change relative to the largest entry of its tensor; infinite when an output is not finite or of another shape."""
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        if old.shape != new.shape:
            worst = float("inf")
        elif old.numel() and not torch.equal(old, new):
            scale = float(old.abs().max())
            change = float((new - old).abs().max()) / scale if scale else float("inf")
            worst = max(worst, change if change == change else float("inf"))
    return worst
