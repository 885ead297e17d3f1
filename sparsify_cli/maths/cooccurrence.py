"""Co-occurrence: how often an attribute is there among the members of a group, and among everyone else.

    P(a = 1 | I = 1)   rows attributes (or classes), columns identities
    P(a = 1 | I = 0)

An identity I is a group column with two values. A column with more values gives one identity a value, that value against the rest.
What a model can exaggerate is how far the two differ: skew = |P1 - P0| / min(P1, P0), with the favoured group the one that has the
higher rate.

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622) for two values: the matrices, the skew, the favoured group. More values and
classes instead of attributes are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Identity:
    """Two groups that together are everyone.

    Args:
        column: the group column that tells them apart.
        inside: its value for the members, I = 1.
        outside: what the others are called, I = 0.
    """

    column: str
    inside: str
    outside: str

    def members(self, groups: Mapping[str, Sequence[str]], n: int) -> Bool[Tensor, " n"]:
        """True for the members; nobody is one where the column is not known.

        Args:
            groups: column -> one value a sample.
            n: samples.
        """
        if self.column not in groups:
            return torch.zeros(n, dtype=torch.bool)
        return torch.from_numpy(np.fromiter(map(self.inside.__eq__, groups[self.column]), dtype=np.bool_, count=n))


def identities(column: str, values: Iterable[str]) -> tuple[Identity, ...]:
    """The identities of a column: one for two values (the second in sorted order is I = 1), one a value for more, none for one.

    Args:
        column: its name.
        values: that occur in it, in any order, once or more often.
    """
    names = sorted(set(values))
    if len(names) == 2:
        return (Identity(column, names[1], names[0]),)
    return tuple(Identity(column, name, f"not {name}") for name in names) if len(names) > 2 else ()


@dataclass(frozen=True, eq=False)
class Cooccurrence:
    """Counts of samples, rows attributes or classes, columns identities.

    Args:
        positives_inside: samples that have the attribute and I = 1.
        positives_outside: samples that have the attribute and I = 0.
        members: samples with I = 1.
        others: samples with I = 0.
    """

    positives_inside: Int[Tensor, "a i"]
    positives_outside: Int[Tensor, "a i"]
    members: Int[Tensor, " i"]
    others: Int[Tensor, " i"]

    @property
    def inside(self) -> Float[Tensor, "a i"]:
        """P(a = 1 | I = 1), float64; NaN where there is no member."""
        return self.positives_inside.double() / self.members

    @property
    def outside(self) -> Float[Tensor, "a i"]:
        """P(a = 1 | I = 0), float64; NaN where there is nobody else."""
        return self.positives_outside.double() / self.others

    @property
    def skew(self) -> Float[Tensor, "a i"]:
        """|P1 - P0| / min(P1, P0): infinite where only one rate is 0, 0 where both are, NaN where one is not known."""
        gap = (self.inside - self.outside).abs()
        return torch.where(gap == 0, 0.0, gap / torch.minimum(self.inside, self.outside))

    @property
    def favours_inside(self) -> Bool[Tensor, "a i"]:
        """True where I = 1 has the higher rate, so that it is the favoured group."""
        return self.inside > self.outside


def cooccurrence(targets: Int[Tensor, "n *a"], members: Bool[Tensor, "n i"], *, outputs: int) -> Cooccurrence:
    """Counts of every attribute, or class, with every identity.

    Args:
        targets: labels, or 0 and 1 for every attribute.
        members: True where a sample has I = 1.
        outputs: how many attributes or classes there are.
    """
    both = torch.zeros(outputs, members.shape[1], dtype=torch.int64)
    if targets.ndim == 2:
        total = (targets > 0).sum(dim=0)
        both += ((targets > 0).T.double() @ members.double()).long()
    else:
        total = torch.bincount(targets, minlength=outputs)
        both.index_add_(0, targets, members.long())
    inside = members.sum(dim=0)
    return Cooccurrence(both, total[:, None] - both, inside, len(members) - inside)
