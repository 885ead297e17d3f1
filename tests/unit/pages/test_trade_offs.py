"""Pareto frontiers against the definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.pages.trade_offs import Offer, figures, frontier, unbeaten

numbers = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), max_size=8)


@given(numbers)
def test_a_frontier_holds_what_no_other_beats(points):
    """At most the cost, at least the gain, and one of them better, pair by pair; twins both stay."""
    kept = frontier([(float(cost), float(gain)) for cost, gain in points])
    for at, (cost, gain) in enumerate(points):
        beaten = any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)
        assert (at in kept) != beaten
    assert bool(kept) == bool(points)


def test_times_within_a_tenth_are_the_same():
    """The better of two is best though it takes 5 % longer; of what takes half as long both are."""
    assert frontier([(1.0, 0.8), (1.05, 0.9), (0.5, 0.7), (None, 1.0), (0.1, None)], slack=0.1) == [1, 2]


def test_each_network_is_told_what_it_is_best_for():
    """Four pairs; what was not measured is not compared."""
    offers = [Offer(0.0, 4000.0, 1.0, 0.9, 0.5), Offer(0.5, 2000.0, 1.01, 0.88, 0.6), Offer(0.9, 2500.0, None, 0.8, None)]
    best = unbeaten(offers, "accuracy")
    assert best[0] == ("accuracy for its bytes and time",)
    assert best[1] == ("accuracy for its bytes", "accuracy of the worst group for its bytes and time")
    assert best[2] == ()


def test_pictures_need_three_networks():
    """Of two gains the one that three networks have is drawn, and its points are told to those who do not see it."""
    offers = [Offer(0.0, 4000.0, None, 0.9, 0.5), Offer(0.5, 2000.0, None, 0.88, None), Offer(0.9, 1000.0, None, 0.8, 0.1)]
    ((label, picture),) = figures(offers, "accuracy, %")
    assert label == "accuracy against bytes" and "90 % zeros: 1.0 kB, 80" in picture
    assert figures(offers[:2], "accuracy, %") == []
    assert "1.0 kB, 7" in figures([Offer(o.zeros, o.bytes, None, -7.0, None) for o in offers], "perplexity", -1.0)[0][1]
