"""Groups to compare: the values of a column, or of two columns together, that enough samples have.

Source: ours; two columns together after Buolamwini and Gebru 2018 (PMLR 81, 77), where single columns hide whom a model fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Int
from torch import Tensor

from sparsify_cli.values.predictions import Predictions

NAMED = 5
"""So many left-out groups are named, the rest is counted."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """Samples by group.

    Args:
        scope: `group:<column>` or `group:<column>&<column>`.
        names: groups with enough samples, sorted.
        rows: samples of those groups.
        codes: group of each of those samples, as its place in `names`.
        small: groups with fewer samples, sorted.
    """

    scope: str
    names: tuple[str, ...]
    rows: Int[Tensor, " m"]
    codes: Int[Tensor, " m"]
    small: tuple[str, ...] = ()

    def left_out(self) -> str:
        """Which groups are left out for lack of samples, in words; "" where none is."""
        more = len(self.small) - NAMED
        named = ", ".join(map(repr, self.small[:NAMED])) + (f" and {more} more" if more > 0 else "")
        return f"without {named}: too few samples" if self.small else ""


def grouping(scope: str, values: tuple[str, ...], least: int) -> Grouping:
    """Samples by their value, the values of fewer than `least` samples left out."""
    found = sorted(set(values))
    place = {value: i for i, value in enumerate(found)}
    codes = torch.tensor([place[value] for value in values], dtype=torch.int64)
    large = torch.bincount(codes, minlength=len(found)) >= max(least, 1)
    rows = large[codes].nonzero()[:, 0]
    small = tuple(value for value, kept in zip(found, large.tolist(), strict=True) if not kept)
    names = tuple(value for value, kept in zip(found, large.tolist(), strict=True) if kept)
    return Grouping(scope, names, rows, (large.cumsum(0) - 1)[codes[rows]], small)


def by_column(predictions: Predictions, least: int) -> Iterator[Grouping]:
    """Groups of each column, columns sorted."""
    for column in sorted(predictions.groups):
        yield grouping(f"group:{column}", predictions.groups[column], least)


def by_two_columns(predictions: Predictions, least: int, most: int) -> Iterator[Grouping]:
    """Groups of each pair of columns, at most `most` pairs in sorted order."""
    for first, second in list(combinations(sorted(predictions.groups), 2))[:most]:
        together = zip(predictions.groups[first], predictions.groups[second], strict=True)
        yield grouping(f"group:{first}&{second}", tuple(f"{a} & {b}" for a, b in together), least)
