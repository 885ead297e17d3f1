"""Which pairs of an attribute (or class) and an identity a training set could have taught a model to exaggerate.

A pair does not count where the attribute is the identity, where a group is not in the training set, where a group has fewer than 10 true
positives in the test set, and where the groups differ by less than a tenth in training.

Source: Iofinova, Peste, Alistarh 2023 (arXiv 2304.12622), code of its category bias; columns of more than two values are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparsify_cli.errors import UnknownName
from sparsify_cli.maths.cooccurrence import Cooccurrence, Identity, cooccurrence, identities
from sparsify_cli.maths.one_against_rest import asked, asked_of
from sparsify_cli.values.predictions import Predictions

Columns = Mapping[str, tuple[str, ...]]
"""Column -> one value a sample."""


class Pairs(NamedTuple):
    """Attribute (row) and identity (column) of each pair, and whether I = 1 is the favoured group."""

    attribute: Int[Tensor, " p"]
    identity: Int[Tensor, " p"]
    inside: Bool[Tensor, " p"]

    def where(self, chosen: Bool[Tensor, " p"] | slice) -> Pairs:
        """Some of them."""
        return Pairs(*(column[chosen] for column in self))


@dataclass(frozen=True, eq=False)
class Rules:
    """Which pairs count.

    Args:
        named: attributes that tell groups apart as group columns do; not asked of classes.
        positives: a pair with fewer true positives than this in a group of the test set does not.
        skew: a pair whose groups differ relatively less than this in training does not.
        values: a column with more values than this gives no identity.
    """

    named: tuple[str, ...] = ()
    positives: int = 10
    skew: float = 0.1
    values: int = 20


@dataclass(frozen=True, eq=False)
class IdentityPairs:
    """The pairs of a test set.

    Args:
        test: any model's predictions; only the truth in them is looked at.
        train_targets: labels of the training set, or 0 and 1 for every attribute.
        train_groups: its group columns.
        rules: which pairs count.
    """

    test: Predictions
    train_targets: Int[Tensor, "m *a"]
    train_groups: Columns
    rules: Rules

    @cached_property
    def columns(self) -> Columns:
        """Group columns of the test set and named attributes, sorted.

        Raises:
            UnknownName: a name is not among the attributes.
        """
        return dict(sorted(self._with_named(self.test.targets, self.test.groups).items()))

    @cached_property
    def unfit(self) -> dict[str, str]:
        """Columns that tell no groups apart, and why."""
        return {column: reason for column in self.columns if (reason := self._unfit(column))}

    @cached_property
    def identities(self) -> tuple[Identity, ...]:
        """Identities of the other columns, column after column."""
        fit = (column for column in self.columns if column not in self.unfit)
        return tuple(identity for column in fit for identity in identities(column, self._values[column]))

    @cached_property
    def members(self) -> Bool[Tensor, "n i"]:
        """Who of the test set has I = 1, for each identity."""
        return self._members(self.columns, len(self.test))

    @cached_property
    def trained(self) -> Cooccurrence:
        """Counts of the training set."""
        return self._counts(self.train_targets, self._members(self._train_columns, len(self.train_targets)))

    @cached_property
    def tested(self) -> Cooccurrence:
        """Counts of the test set."""
        return self._counts(self.test.targets, self.members)

    @cached_property
    def left_out(self) -> dict[str, Bool[Tensor, "a i"]]:
        """Pairs that do not count, by reason; a pair has one reason, the first that holds."""
        fewest = torch.minimum(self.tested.positives_inside, self.tested.positives_outside)
        reasons = {
            "the attribute with itself": self._itself,
            "with a group that the training set has not": self.trained.skew.isnan(),
            f"with fewer than {self.rules.positives} true positives of a group in the test set": fewest < self.rules.positives,
            f"with a training skew below {100 * self.rules.skew:g} %": self.trained.skew < self.rules.skew,
        }
        told = torch.zeros_like(self._itself)
        for reason, holds in reasons.items():
            reasons[reason], told = holds & ~told, told | holds
        return reasons

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs that count, identity after identity."""
        out = torch.stack(list(self.left_out.values())).any(dim=0)
        identity, attribute = (~out).T.nonzero().unbind(1)
        return Pairs(attribute, identity, self.trained.favours_inside[attribute, identity])

    def scope(self, attribute: int, identity: int, *, inside: bool) -> str:
        """What a pair is called: `attribute:<a>@<column>=<favoured value>`, of classes `class:`."""
        kind, who = "attribute" if self.test.has_attributes else "class", self.identities[identity]
        return f"{kind}:{asked(self.test)[attribute]}@{who.column}={who.inside if inside else who.outside}"

    @cached_property
    def _train_columns(self) -> Columns:
        return self._with_named(self.train_targets, self.train_groups)

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        """Values of each column of the test set, in it or in the training set."""
        return {name: sorted({*values, *self._train_columns.get(name, ())}) for name, values in self.columns.items()}

    @cached_property
    def _itself(self) -> Bool[Tensor, "a i"]:
        names = asked(self.test)
        same = [[name == identity.column for identity in self.identities] for name in names]
        return torch.tensor(same, dtype=torch.bool).reshape(len(names), len(self.identities))

    def _unfit(self, column: str) -> str:
        if column not in self._train_columns:
            return f"the training set has no column {column!r}"
        count = len(self._values[column])
        if count > self.rules.values:
            return f"{count} values, and more than {self.rules.values} are not taken for groups"
        return "" if count > 1 else "the column has one value only"

    def _with_named(self, targets: Int[Tensor, "n *a"], groups: Columns) -> Columns:
        """Group columns, and the named attributes as columns of yes and no; a group column of the same name is kept."""
        known = self.test.attributes
        unknown = [name for name in self.rules.named if known and name not in known]
        if unknown:
            raise UnknownName("attribute", unknown[0], known, "An identity is one of the attributes, or a group column.")
        told = {name: targets[:, known.index(name)].tolist() for name in self.rules.named if known}
        return {**{name: tuple("yes" if one else "no" for one in column) for name, column in told.items()}, **groups}

    def _members(self, columns: Columns, n: int) -> Bool[Tensor, "n i"]:
        each = [identity.members(columns, n) for identity in self.identities]
        return torch.stack(each, dim=1) if each else torch.zeros(n, 0, dtype=torch.bool)

    def _counts(self, targets: Int[Tensor, "n *a"], members: Bool[Tensor, "n i"]) -> Cooccurrence:
        outputs = self.test.logits.shape[1]
        return cooccurrence(asked_of(targets, outputs), members, outputs=len(asked(self.test)))
