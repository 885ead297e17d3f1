"""Redistribution: totals exact, shares in proportion, caps of .99."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sparsify_cli.errors import Infeasible, NonFinite
from sparsify_cli.maths.redistribution import regrowth


def test_in_proportion():
    """Thirty weights at 1 : 2 : 3 are 5, 10 and 15."""
    assert regrowth([0.5, 1.0, 1.5], 30, [1000, 1000, 1000]) == [5, 10, 15]


def test_a_full_layer_hands_on():
    """A layer with 20 free positions gets int(.99 * 20) = 19 of its 40; the other 41 of 60 go to the others at 1 : 1."""
    assert regrowth([4.0, 1.0, 1.0], 60, [20, 1000, 1000]) in ([19, 21, 20], [19, 20, 21])


def test_the_cap_gives_way_where_it_must():
    """Ten weights and ten free positions: all are filled, although .99 of 5 is 4."""
    assert regrowth([1.0, 1.0], 10, [5, 5]) == [5, 5]


def test_no_momentum_at_all():
    """Then in equal parts."""
    assert regrowth([0.0, 0.0], 10, [100, 100]) == [5, 5]


@given(some.lists(some.tuples(some.floats(0, 1e30), some.integers(0, 500)), min_size=1, max_size=6), some.data())
def test_totals_are_exact(layers, data):
    """Whatever the shares: whole counts within what is free that sum to the total."""
    importance, free = [value for value, _ in layers], [room for _, room in layers]
    total = data.draw(some.integers(0, sum(free)))
    counts = regrowth(importance, total, free)
    assert sum(counts) == total
    assert all(0 <= count <= room for count, room in zip(counts, free, strict=True))


def test_what_cannot_be_shared():
    """Momentum that is not finite, and more weights than there is room for."""
    with pytest.raises(NonFinite):
        regrowth([1.0, float("nan")], 3, [5, 5])
    with pytest.raises(Infeasible):
        regrowth([1.0, 1.0], 11, [5, 5])
