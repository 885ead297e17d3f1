"""Counts and selections small enough to do in the head."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from sparsify_cli.errors import BadRequest, Infeasible, NonFinite
from sparsify_cli.maths.keep import apportion, as_fraction, keep_count, top_k, top_k_by_sorting, top_k_of_groups, zeros_count

NINE_TENTHS = ["0.9", " 0.9 ", ".9", "9e-1", "9/10", 0.9, np.float64(0.9), Decimal("0.90"), Fraction(9, 10)]


@pytest.mark.parametrize("value", NINE_TENTHS, ids=repr)
def test_reads_what_a_person_means(value):
    """Text, floats and decimals that read 0.9 are exactly nine tenths."""
    assert as_fraction(value) == Fraction(9, 10)


@pytest.mark.parametrize(("value", "exact"), [(0, 0), (1, 1), ("0", 0), (1.0, 1), ("-0", 0), (1e-5, Fraction(1, 100_000)), (5e-324, None)])
def test_reads_the_ends(value, exact):
    """0 and 1 are whole, and small floats are read through their decimal text."""
    assert as_fraction(value) == (Fraction("5e-324") if exact is None else exact)


@pytest.mark.parametrize("value", ["1.5", 1.5, -0.1, "-1e-9", 90, "90", "1000001/1000000", Decimal(2)], ids=repr)
def test_outside_is_refused_by_value(value):
    """A fraction outside [0, 1] is refused, and the message names it."""
    with pytest.raises(BadRequest, match=r"outside \[0, 1\]") as caught:
        as_fraction(value)
    assert str(value) in str(caught.value)


REFUSED = [float("nan"), "nan", Decimal("nan"), float("inf"), "inf", "", "90%", "0,9", "half", "1/0", "1e-99999999999", "0x1", "1_0e-2"]


@pytest.mark.parametrize("value", REFUSED, ids=repr)
def test_no_number_is_refused(value):
    """What is no number is refused by value, and a huge exponent is not expanded."""
    with pytest.raises(BadRequest, match="is not a number") as caught:
        as_fraction(value)
    assert str(value) in str(caught.value)


def test_the_name_of_the_number_is_in_the_message():
    """Another fraction than sparsity is called by its own name."""
    with pytest.raises(BadRequest, match="The dampening 2 is outside"):
        as_fraction(2, name="dampening")


@pytest.mark.parametrize(
    ("n", "sparsity", "zeros"),
    [
        (10, "0.5", 5),
        (7, "0.5", 4),
        (5, "0.5", 2),
        (10, "0.9", 9),
        (100, "0.07", 7),
        (49, "1/49", 1),
        (3, "1/3", 1),
        (0, "0.5", 0),
        (1, "0.5", 0),
    ],
)
def test_zeros_round_half_to_even(n, sparsity, zeros):
    """3.5 zeros are 4 and 2.5 are 2; 0.07 of 100 is 7 and not 8."""
    assert zeros_count(n, as_fraction(sparsity)) == zeros
    assert keep_count(n, as_fraction(sparsity)) == n - zeros


def test_counts_beyond_floats_are_exact():
    """A count above 2^53 does not pass through a float."""
    assert zeros_count(2**60 + 1, Fraction(1)) == 2**60 + 1
    assert keep_count(10**18 + 3, Fraction(1, 3)) == 666_666_666_666_666_669


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64])
def test_earlier_positions_win_ties(dtype):
    """Of three equal scores two stay, and they are the first two."""
    scores = torch.tensor([1, 3, 2, 2, 2, 0], dtype=dtype)
    assert top_k(scores, 3).tolist() == [False, True, True, True, False, False]


def test_signed_zeros_are_equal():
    """-0.0 and 0.0 tie, so the earlier stays."""
    assert top_k(torch.tensor([-0.0, 0.0]), 1).tolist() == [True, False]


def test_infinite_scores():
    """+inf is always first and -inf last, also among themselves by position."""
    scores = torch.tensor([-torch.inf, 5.0, torch.inf, -torch.inf, torch.inf])
    assert top_k(scores, 1).tolist() == [False, False, True, False, False]
    assert top_k(scores, 3).tolist() == [False, True, True, False, True]
    assert top_k(scores, 4).tolist() == [True, True, True, False, True]


def test_nan_is_refused_by_number():
    """NaN scores cannot be ranked, whatever is asked of them."""
    for keep in (0, 1, 3):
        with pytest.raises(NonFinite, match="1 of 3 scores"):
            top_k(torch.tensor([1.0, torch.nan, 2.0]), keep)


@pytest.mark.parametrize("keep", [-1, 4])
def test_impossible_counts_are_refused(keep):
    """A selection keeps between none and all."""
    with pytest.raises(BadRequest, match=f"keep {keep} of 3"):
        top_k(torch.zeros(3), keep)


def test_nothing_to_select_from():
    """An empty vector gives an empty selection."""
    assert top_k(torch.zeros(0), 0).tolist() == []


def test_scores_are_not_changed():
    """Selecting does not write into the scores."""
    scores = torch.tensor([3.0, 1.0, 2.0])
    top_k(scores, 2)
    assert scores.tolist() == [3.0, 1.0, 2.0]


def test_many_scores_with_many_ties():
    """200,000 scores of seven values: the fast selection is the stable sort."""
    scores = torch.randint(0, 7, (200_000,)).float()
    assert torch.equal(top_k(scores, 123_457), top_k_by_sorting(scores, 123_457))


def test_groups_keep_their_best():
    """Each group keeps its two best, the earlier among equals."""
    groups = torch.tensor([[1.0, 4.0, 3.0, 2.0], [5.0, 5.0, 5.0, 5.0], [-torch.inf, 0.0, -torch.inf, torch.inf]])
    expected = [[False, True, True, False], [True, True, False, False], [False, True, False, True]]
    assert top_k_of_groups(groups, 2).tolist() == expected


def fractions(*values):
    """Exact shares."""
    return [Fraction(value) for value in values]


@pytest.mark.parametrize(
    ("shares", "total", "caps", "counts"),
    [
        (("5/2", "5/2"), 5, (9, 9), [3, 2]),  # one unit left, equal remainders: the first
        (("1.2", "1.3", "1.5"), 4, (9, 9, 9), [1, 1, 2]),  # the largest remainder
        ((1, 1, 1), 10, (2, 9, 9), [2, 4, 4]),  # what the cap withholds goes to the others
        ((4, 4, 1), 9, (2, 3, 9), [2, 3, 4]),  # two caps, one after the other
        ((10, 1), 11, (11, 11), [10, 1]),
        ((0, 1), 3, (5, 2), [1, 2]),  # a share of nothing gets what nobody else can take
        ((0, 0), 3, (5, 5), [2, 1]),
        ((7,), 0, (3,), [0]),
        ((), 0, (), []),
    ],
)
def test_largest_remainder(shares, total, caps, counts):
    """Whole counts by largest remainder, first come first served, under caps."""
    assert apportion(fractions(*shares), total, caps) == counts


def test_floors_are_kept_first():
    """An entry that must get six gets six, and the other two share the rest."""
    assert apportion(fractions(1, 1, 1), 10, [9, 9, 9], floors=[6, 0, 0]) == [6, 2, 2]


def test_no_room_says_the_numbers():
    """Asking for nine where five fit names both."""
    with pytest.raises(Infeasible, match=r"keep 9 weights.*may keep 5"):
        apportion(fractions(1, 1), 9, [2, 3])
