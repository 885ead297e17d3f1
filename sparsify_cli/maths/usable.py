"""Which weights of a layer are worth keeping, and how many of them a pattern lets stay.

    live      its input is active in some calibration row
    allowed   it was not pruned before

A weight that is both is usable. Others stay only when there are too few usable ones: those at inputs that are never active
come next, in the order of their scores, and those pruned before last.

Source: none; published code sets weights at dead inputs to zero and prunes by `<=`, which leaves counts to chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.keep import apportion, top_k, top_k_of_groups
from sparsify_cli.maths.transposable import transposable
from sparsify_cli.recipes.pattern import Pattern


@dataclass(frozen=True, eq=False)
class Usable:
    """Where the weights of a layer may stay.

    Args:
        live: the weight's input is active.
        allowed: the weight was not pruned before.
    """

    live: Bool[Tensor, "out columns"]
    allowed: Bool[Tensor, "out columns"]

    @classmethod
    def of(
        cls, weight: Float[Tensor, "out columns"], gram: Float[Tensor, "columns columns"], within: Bool[Tensor, "out columns"] | None
    ) -> Usable:
        """What a Gram matrix and a support say of a layer's weights."""
        live = (gram.diagonal() > 0).expand(weight.shape)
        return cls(live, torch.ones_like(live) if within is None else within.to(live.device))

    def ranked(self, scores: Float[Tensor, "out columns"]) -> Float[Tensor, "out columns"]:
        """Scores >= 0 of usable weights as they are; of those at dead inputs below 0, in the same order; of pruned ones lowest."""
        if bool(self.live.all()) and bool(self.allowed.all()):
            return scores
        dead = scores / (1 + scores) - 2  # in [-2, -1]
        return torch.where(self.live, scores, dead).masked_fill(~self.allowed, -3)

    def require_room(self, count: int, pattern: Pattern) -> None:
        """Refuse a count that the pattern has no room for.

        Raises:
            Infeasible: with the count and the room.
        """
        room = int(rooms(torch.ones_like(self.live), pattern).sum())
        if not 0 <= count <= room:
            raise Infeasible(f"{count} weights of a layer should stay, and {pattern} lets {room} stay.")

    def row_counts(self, count: int, pattern: Pattern) -> list[int]:
        """Equal shares of `count` for every row, within one; only where usable weights are too few those at dead inputs count, then all.

        Raises:
            Infeasible: the pattern has no room for the count.
        """
        self.require_room(count, pattern)
        places = (self.live & self.allowed, self.allowed, torch.ones_like(self.live))
        caps = [rooms(some, pattern).tolist() for some in places]
        enough = next(i for i, cap in enumerate(caps) if count <= sum(cap))
        return apportion([Fraction(1)] * len(caps[0]), count, caps[enough], floors=caps[enough - 1] if enough else None)


def rooms(places: Bool[Tensor, "out columns"], pattern: Pattern) -> Tensor:
    """How many of the places in each row the pattern lets stay, [out]."""
    return places.reshape(len(places), -1, pattern.group).sum(2).clamp(max=pattern.keep).sum(1)


def best(scores: Float[Tensor, "out columns"], count: int, pattern: Pattern) -> Bool[Tensor, "out columns"]:
    """The `count` highest scores that the pattern lets stay; among equal scores the earlier position stays."""
    if not pattern.is_grouped:
        return top_k(scores.flatten(), count).view_as(scores)
    if pattern.transposed:
        fit = transposable(scores, pattern.keep, pattern.group)
    else:
        fit = top_k_of_groups(scores.reshape(-1, pattern.group), pattern.keep).view_as(scores)
    if count < scores.numel() // pattern.group * pattern.keep:
        fit = top_k(scores.masked_fill(~fit, -torch.inf).flatten(), count).view_as(scores)
    return fit


def best_of_rows(scores: Float[Tensor, "out columns"], counts: list[int], pattern: Pattern) -> Bool[Tensor, "out columns"]:
    """As `best`, with a count for every row."""
    return torch.stack([best(row[None], count, pattern)[0] for row, count in zip(scores, counts, strict=True)])
