"""Bias amplification of pairs of an attribute a and a favoured group G, for several models, on a test set and its resamples.

    |predicted a, in G| / |predicted a|  -  |true a, in G| / |true a|

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622), category bias; the resamples are ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sparsify_cli.maths.identity_pairs import Pairs
from sparsify_cli.maths.resampled_totals import resampled_totals


class Amplification(NamedTuple):
    """For every model and pair: the number (NaN without predicted positives), what it rests on, and the number in each resample."""

    values: Float[Tensor, "m p"]
    predicted: Int[Tensor, "m p"]
    predicted_in_favoured: Int[Tensor, "m p"]
    drawn: Float[Tensor, "r m p"]

    def is_weak(self, enough: int) -> Bool[Tensor, "m p"]:
        """True where resamples vary too little: fewer predicted positives than `enough`, or all of them in one group."""
        in_one = (self.predicted_in_favoured == 0) | (self.predicted_in_favoured == self.predicted)
        return in_one | (self.predicted < enough)


def amplification(
    tables: Sequence[Bool[Tensor, "n a"]], members: Bool[Tensor, "n i"], pairs: Pairs, order: Int[Tensor, " n"]
) -> Amplification:
    """Bias amplification of every model for every pair.

    Args:
        tables: who has each attribute; then, of each model, who is predicted to have it.
        members: who has I = 1, for each identity.
        pairs: which pairs; each has true positives.
        order: of `content_order`, from rows that hold all of the above.
    """
    columns = torch.cat(list(_columns(tables, members, pairs)), dim=1)
    totals = _tabled(columns.sum(dim=0)[None].double(), len(pairs.attribute))
    drawn = _amplified(_tabled(resampled_totals(columns, order), len(pairs.attribute)))
    predicted, favoured = totals[0, 1:].long().unbind(1)
    return Amplification(_amplified(totals)[0], predicted, favoured, drawn)


def _columns(tables: Sequence[Bool[Tensor, "n a"]], members: Bool[Tensor, "n i"], pairs: Pairs) -> Iterator[Bool[Tensor, "n p"]]:
    """Of each table the positives of every pair, and those of them in the favoured group."""
    favoured = members[:, pairs.identity] == pairs.inside
    for table in tables:
        yes = table[:, pairs.attribute]
        yield yes
        yield yes & favoured


def _tabled(totals: Float[Tensor, "r columns"], pairs: int) -> Float[Tensor, "r tables 2 p"]:
    return totals.reshape(len(totals), -1, 2, pairs)


def _amplified(totals: Float[Tensor, "r tables 2 p"]) -> Float[Tensor, "r m p"]:
    shares = totals[:, :, 1] / totals[:, :, 0]
    return shares[:, 1:] - shares[:, :1]
