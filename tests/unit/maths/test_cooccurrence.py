"""Co-occurrence of attributes and identities, by counting."""

import math

import pytest
import torch

from sparsify_cli.maths.cooccurrence import Identity, cooccurrence, identities

MEMBERS = torch.tensor([[True, False], [True, False], [False, False], [False, False]])


def test_counts_of_attributes():
    """Two of two members have the first attribute and one of two others; nobody is a member of the second identity."""
    found = cooccurrence(torch.tensor([[1, 0], [1, 0], [1, 0], [0, 1]]), MEMBERS, outputs=2)
    assert found.positives_inside.tolist() == [[2, 0], [0, 0]] and found.positives_outside.tolist() == [[1, 3], [1, 1]]
    assert found.members.tolist() == [2, 0] and found.others.tolist() == [2, 4]
    assert found.inside[:, 0].tolist() == [1.0, 0.0] and found.outside[:, 0].tolist() == [0.5, 0.5]


def test_counts_of_classes_are_those_of_their_one_hot_attributes():
    """The same numbers whether a class is a label or an attribute; a class nobody has is all zeros."""
    labels = torch.tensor([0, 2, 2, 0])
    one, other = (cooccurrence(t, MEMBERS, outputs=4) for t in (labels, torch.nn.functional.one_hot(labels, 4)))
    assert torch.equal(one.positives_inside, other.positives_inside) and torch.equal(one.positives_outside, other.positives_outside)
    assert one.positives_outside.sum(dim=1).tolist() == [3, 0, 3, 0]


def test_skew_and_the_favoured_group():
    """1 against .5: skew 1, members favoured; 0 against .5: infinite, the others; no member: not known; nobody anywhere: 0."""
    found = cooccurrence(torch.tensor([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0]]), MEMBERS, outputs=3)
    assert found.skew[:, 0].tolist() == [1.0, math.inf, 0.0] and found.favours_inside[:, 0].tolist() == [True, False, False]
    assert found.skew[:, 1].isnan().all() and found.inside[:, 1].isnan().all()


def test_skew_is_the_same_from_either_side():
    """Swapping the groups swaps the rates and the favour, not the skew."""
    targets = torch.randint(2, (60, 5), generator=torch.Generator().manual_seed(0))
    members = torch.rand(60, 1, generator=torch.Generator().manual_seed(1)) < 0.4
    one, other = (cooccurrence(targets, side, outputs=5) for side in (members, ~members))
    assert torch.equal(one.skew, other.skew) and torch.equal(one.inside, other.outside)
    assert torch.equal(one.favours_inside, ~other.favours_inside)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (("m", "f", "m"), [("m", "f")]),
        (("c", "a", "b"), [("a", "not a"), ("b", "not b"), ("c", "not c")]),
        (("a", "a"), []),
        ((), []),
    ],
)
def test_identities_of_a_column(values, told):
    """One for two values, one a value for more, none for fewer."""
    assert [(one.inside, one.outside) for one in identities("g", values)] == told


def test_members_of_an_identity():
    """Those with its value; nobody where the column is not known."""
    one = Identity("g", "a", "not a")
    assert one.members({"g": ("a", "b", "a")}, 3).tolist() == [True, False, True]
    assert one.members({}, 3).tolist() == [False] * 3
