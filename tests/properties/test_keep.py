"""What holds for every count and every selection."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.keep import apportion, as_fraction, keep_count, quotas, top_k, top_k_by_sorting, top_k_of_groups, zeros_count
from tests.keep_properties import violations
from tests.strategies import n_of_m, scores, sizes, sparsities


def ours(values, sparsity):
    """Our rule as the property suite sees it: a float comes in, zeros of a real selection go out."""
    ranked = torch.tensor(list(values), dtype=torch.float64)
    return int((~top_k(ranked, keep_count(len(values), as_fraction(sparsity)))).sum())


@given(n=st.integers(1, 400), sparsity=sparsities())
def test_five_properties_hold_everywhere(n, sparsity):
    """Within one weight; exact at the ends; monotone; blind to ties; exact on counts: for any n and sparsity."""
    assert violations(ours, [(n, sparsity)]) == []


def test_every_count_up_to_400_is_exact():
    """Asking for k of n gives exactly k, for every k and n up to 400, also when k/n is a binary float."""
    pairs = [(n, k) for n in range(1, 401) for k in range(n + 1)]
    assert [(n, k) for n, k in pairs if zeros_count(n, as_fraction(k / n)) != k] == []
    assert [(n, k) for n, k in pairs[::7] if zeros_count(n, Fraction(k, n)) != k] == []


@given(n=sizes(most=10_000), low=sparsities(), high=sparsities())
def test_more_sparsity_never_keeps_more(n, low, high):
    """The kept count falls, or stays, as sparsity rises."""
    assert keep_count(n, min(low, high)) >= keep_count(n, max(low, high))


@given(values=scores(), data=st.data())
def test_top_k_equals_the_stable_sort(values, data):
    """The fast selection is the slow one, ties and all, with exactly the count asked for."""
    keep = data.draw(st.integers(0, values.numel()))
    kept = top_k(values, keep)
    assert int(kept.sum()) == keep
    assert torch.equal(kept, top_k_by_sorting(values, keep))


@given(values=scores(), data=st.data())
def test_infinite_scores_rank_at_the_ends(values, data):
    """+inf comes before, -inf after every finite score, and the count stays exact."""
    positions = st.sampled_from([0.0, torch.inf, -torch.inf])
    shift = torch.tensor(data.draw(st.lists(positions, min_size=values.numel(), max_size=values.numel())), dtype=torch.float32)
    keep = data.draw(st.integers(0, values.numel()))
    assert torch.equal(top_k(values + shift, keep), top_k_by_sorting(values + shift, keep))


@given(values=scores(), data=st.data())
def test_keeping_fewer_keeps_a_subset(values, data):
    """Selections of one score nest."""
    keep = data.draw(st.integers(0, values.numel()))
    fewer = data.draw(st.integers(0, keep))
    assert bool((~top_k(values, fewer) | top_k(values, keep)).all())


@given(pattern=n_of_m(), data=st.data())
def test_groups_equal_the_stable_sort_of_each(pattern, data):
    """Selecting in all groups at once is selecting in each."""
    groups = data.draw(scores((5, pattern.group)))
    expected = torch.stack([top_k_by_sorting(group, pattern.keep) for group in groups])
    assert torch.equal(top_k_of_groups(groups, pattern.keep), expected)


@st.composite
def bounded(draw):
    """Shares with floors and caps, and a total there is room for."""
    shares = draw(st.lists(st.fractions(0, 50, max_denominator=9), min_size=1, max_size=8))
    floors = [draw(st.integers(0, 5)) for _ in shares]
    caps = [low + draw(st.integers(0, 20)) for low in floors]
    return shares, draw(st.integers(sum(floors), sum(caps))), caps, floors


@given(request=bounded())
def test_apportioned_counts_fit(request):
    """Counts sum to exactly the total, respect floor and cap, and are within one of their exact quota."""
    shares, total, caps, floors = request
    counts = apportion(shares, total, caps, floors=floors)
    assert sum(counts) == total
    assert all(low <= count <= cap for low, count, cap in zip(floors, counts, caps, strict=True))
    assert all(abs(count - quota) < 1 for count, quota in zip(counts, quotas(shares, total, caps, floors=floors), strict=True))


@given(request=bounded())
def test_quotas_are_proportional_between_their_bounds(request):
    """Entries that meet no bound share one factor; an entry at its cap wanted more, one at its floor wanted less."""
    shares, total, caps, floors = request
    exact = quotas(shares, total, caps, floors=floors)
    positive = [i for i, share in enumerate(shares) if share > 0]
    factors = {exact[i] / shares[i] for i in positive if floors[i] < exact[i] < caps[i]}
    assert sum(exact) == total
    assert len(factors) <= 1
    for factor in factors:
        assert all(exact[i] == min(max(factor * shares[i], floors[i]), caps[i]) for i in positive)


@given(weights=st.lists(st.integers(0, 100), min_size=1, max_size=8), sparsity=sparsities())
def test_unbound_counts_are_within_one_of_their_share(weights, sparsity):
    """Where no cap binds, each count is less than one from its share of the total."""
    total = keep_count(sum(weights), sparsity)
    shares = [Fraction(weight * total, max(1, sum(weights))) for weight in weights]
    counts = apportion(shares, total, [sum(weights)] * len(weights))
    assert sum(counts) == total
    assert all(abs(count - share) < 1 for count, share in zip(counts, shares, strict=True))


@given(request=bounded(), excess=st.integers(1, 5))
def test_no_room_is_infeasible(request, excess):
    """A total above all caps, or below all floors, is refused with the numbers."""
    shares, _, caps, floors = request
    with pytest.raises(Infeasible, match=str(sum(caps))):
        apportion(shares, sum(caps) + excess, caps, floors=floors)
    with pytest.raises(Infeasible):
        apportion(shares, sum(floors) - excess, caps, floors=floors)
