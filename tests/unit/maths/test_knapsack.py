"""The dynamic programme against trying everything, and counts that are exact."""

from __future__ import annotations

import math
import time
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.errors import BadRequest, Infeasible
from sparsify_cli.maths.allocate import Counted
from sparsify_cli.maths.budget import multiply_accumulates, packed_bytes, parameters
from sparsify_cli.maths.error_curves import Curve
from sparsify_cli.maths.knapsack import cheapest, dp, filled, priced, sensitivity, within_budget


def tried(costs, resource, budget):
    """The least sum of costs within the budget, by trying every choice; None when none fits."""
    every = product(*(range(len(cost)) for cost in costs))
    sums = [(sum(c[i] for c, i in zip(costs, pick, strict=True)), sum(r[i] for r, i in zip(resource, pick, strict=True))) for pick in every]
    return min((cost for cost, taken in sums if taken <= budget), default=None)


@st.composite
def problems(draw, *, most=30):
    """Up to four layers of up to five levels with small whole costs and amounts, and a budget."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    costs = [[float(draw(st.integers(0, 20))) for _ in range(size)] for size in sizes]
    resource = [[draw(st.integers(0, most)) for _ in range(size)] for size in sizes]
    return costs, resource, draw(st.integers(0, most * len(sizes)))


@given(problem=problems(), scale=st.sampled_from([1, 7, 10**9]))
def test_equals_trying_everything(problem, scale):
    """The least sum of costs is found exactly whatever the unit of the resource, and what cannot be met is refused."""
    costs, resource, budget = problem
    resource, best = [[amount * scale for amount in amounts] for amounts in resource], tried(*problem)
    if best is None:
        with pytest.raises(Infeasible):
            cheapest(costs, resource, budget * scale)
        return
    levels = cheapest(costs, resource, budget * scale)
    assert sum(cost[level] for cost, level in zip(costs, levels, strict=True)) == best
    assert sum(amounts[level] for amounts, level in zip(resource, levels, strict=True)) <= budget * scale


@given(problem=problems(most=10**6), buckets=st.integers(1, 50))
def test_rounding_never_exceeds_the_budget(problem, buckets):
    """With any number of buckets what is found fits, costs no less than the best, and is found where anything fits."""
    costs, resource, budget = problem
    best = tried(*problem)
    if best is not None:
        levels = cheapest(costs, resource, budget, buckets=buckets)
        assert sum(amounts[level] for amounts, level in zip(resource, levels, strict=True)) <= budget
        assert sum(cost[level] for cost, level in zip(costs, levels, strict=True)) >= best


def test_forbidden_levels_and_nonsense():
    """An infinite cost forbids a level; a layer with no finite one, or with a negative or NaN cost, is refused."""
    assert cheapest([[math.inf, 5.0]], [[1, 2]], 2) == [1]
    for costs in ([math.inf], [math.nan], [-1.0]):
        with pytest.raises(BadRequest, match="no level"):
            cheapest([costs], [[1]], 9)


def test_the_least_is_named():
    """Three layers that take at least 2 + 3 + 4 do not fit 8."""
    with pytest.raises(Infeasible, match="at least 9") as caught:
        cheapest([[1.0]] * 3, [[2], [3], [4]], 8)
    assert caught.value.exit_code == 5


def test_sixty_layers_of_forty_levels_within_a_second():
    """The size of a large network, with amounts that need rounding, takes less than one second of processor time."""
    random = np.random.default_rng(0)
    costs = np.sort(random.random((60, 40)), axis=1)
    amounts = np.sort(random.integers(1, 10**9, (60, 40)), axis=1)[:, ::-1]
    before = time.process_time()
    levels = cheapest(costs.tolist(), amounts.tolist(), int(amounts.mean(1).sum()))
    assert time.process_time() - before < 1
    assert amounts[range(60), levels].sum() <= amounts.mean(1).sum()


def curve(name, weights, *errors):
    """A curve from (kept, error) pairs."""
    return Curve.measured(name, weights, errors)


@st.composite
def networks(draw):
    """One to five layers with bounds and noisy curves down to their floors, and a total there is room for."""
    curves, layers = [], []
    for i in range(draw(st.integers(1, 5))):
        units = draw(st.integers(1, 60))
        cap = draw(st.integers(0, units))
        layers.append(Counted(str(i), (1, units), units, cap, draw(st.integers(0, cap))))
        errors = draw(st.dictionaries(st.integers(0, units - 1), st.floats(0, 1e3), max_size=6))
        curves.append(curve(str(i), units, *{**errors, 0: draw(st.floats(0, 1e4))}.items()))
    return curves, layers, draw(st.integers(sum(layer.floor for layer in layers), sum(layer.cap for layer in layers)))


@pytest.mark.parametrize("allocation", [dp, sensitivity])
@given(drawn=networks())
def test_totals_are_exact(allocation, drawn):
    """Counts sum to exactly the total, between floors and caps."""
    curves, layers, total = drawn
    counts = allocation(curves, layers, total)
    assert sum(counts) == total
    assert all(layer.floor <= count <= layer.cap for layer, count in zip(layers, counts, strict=True))


@given(drawn=networks(), data=st.data())
def test_dp_costs_no_more_than_levels_alone(drawn, data):
    """The sum of errors is at most that of any choice of levels that fits: filling up only lowers it."""
    curves, layers, total = drawn
    choices = [layer.levels for layer in priced(curves, layers)]
    picked = [data.draw(st.sampled_from(kepts)) for kepts in choices]
    if sum(picked) <= total:
        spent = sum(c.cost(k) for c, k in zip(curves, picked, strict=True))
        found = sum(c.cost(k) for c, k in zip(curves, dp(curves, layers, total), strict=True))
        assert found <= spent * (1 + 1e-12) + 1e-12


@given(drawn=networks(), uses=st.lists(st.integers(1, 1000), min_size=5, max_size=5), spare=st.fractions(0, 1), buckets=st.integers(1, 100))
def test_any_budget_is_kept(drawn, uses, spare, buckets):
    """Under a budget of multiply-accumulates the layers take at most the limit, within their bounds."""
    curves, layers, _ = drawn
    amounts = [multiply_accumulates(use) for use in uses[: len(layers)]]
    least, most = ([a(b) for a, b in zip(amounts, bounds, strict=True)] for bounds in zip(*[(x.floor, x.cap) for x in layers], strict=True))
    limit = sum(least) + int(spare * (sum(most) - sum(least)))
    counts = within_budget(priced(curves, layers, amounts), limit, buckets=buckets)
    assert sum(a(count) for a, count in zip(amounts, counts, strict=True)) <= limit
    assert all(layer.floor <= count <= layer.cap for layer, count in zip(layers, counts, strict=True))


def test_dp_by_hand():
    """Keeping 15 of 20: the layer whose half costs 1 gives its five weights, the one whose half costs 100 none."""
    pair = [curve("a", 10, (5, 1.0)), curve("b", 10, (5, 100.0))]
    layers = [Counted("a", (1, 10), 10, 10), Counted("b", (1, 10), 10, 10)]
    assert dp(pair, layers, 15) == [5, 10]
    assert dp(pair[::-1], layers, 15) == [10, 5]
    assert dp(pair, layers, 20) == [10, 10]


def test_what_is_left_goes_where_the_error_falls_fastest():
    """From (5, 5) with room for 7 more, the layer whose error falls by 100 is filled up, and two go to the other."""
    layers = priced(
        [curve("a", 10, (5, 1.0)), curve("b", 10, (5, 100.0))], [Counted("a", (1, 10), 10, 10, 5), Counted("b", (1, 10), 10, 10, 5)]
    )
    assert filled(layers, [5, 5], 17) == [7, 10]


def test_dp_weighs_error_against_what_is_spent():
    """Equal curves, but the first layer's weights are used 100 times: a budget of half the work prunes it alone."""
    curves = [curve("a", 10, (5, 1.0), (1, 2.0)), curve("b", 10, (5, 1.0), (1, 2.0))]
    layers = priced(curves, [Counted("a", (1, 10), 10, 10, 1), Counted("b", (1, 10), 10, 10, 1)], [multiply_accumulates(100), parameters()])
    assert within_budget(layers, 510) == [5, 10]


def test_dp_under_a_budget_of_bytes():
    """Bytes of the smallest form hold: half the dense bytes of two layers, of which the sensitive one keeps more."""
    curves = [curve("a", 10_000, (5000, 1.0), (1000, 10.0)), curve("b", 10_000, (5000, 10.0), (1000, 100.0))]
    bounds = [Counted(name, (100, 100), 10_000, 10_000, 1000) for name in "ab"]
    counts = within_budget(priced(curves, bounds, [packed_bytes(10_000, 4)] * 2), 40_000)
    taken = [packed_bytes(10_000, 4)(count) for count in counts]
    assert 39_990 <= sum(taken) <= 40_000
    assert counts[1] > counts[0]


@given(drawn=networks())
def test_more_budget_never_costs_more_error(drawn):
    """With one weight more to keep, the best sum of errors over levels does not rise."""
    curves, layers, _ = drawn
    choices = [layer.levels for layer in priced(curves, layers)]
    costs = [[c.cost(k) for k in kepts] for c, kepts in zip(curves, choices, strict=True)]
    room = range(sum(layer.floor for layer in layers), sum(layer.cap for layer in layers) + 1)
    best = [sum(c[i] for c, i in zip(costs, cheapest(costs, choices, budget), strict=True)) for budget in [*room][:25]]
    assert all(later <= earlier * (1 + 1e-12) for earlier, later in pairwise(best))


def test_sensitivity_by_hand():
    """Of twenty weights ten go: at an error of 1.6 in each, a keeps 2 (2^0.6 = 1.52) and b keeps 8 (2/5 of 4)."""
    curves = [curve("a", 10, (5, 1.0), (0, 2.0)), curve("b", 10, (5, 4.0), (0, 8.0))]
    layers = [Counted("a", (1, 10), 10, 10), Counted("b", (1, 10), 10, 10)]
    assert sensitivity(curves, layers, 10) == [2, 8]


def test_sensitivity_does_not_see_a_cut():
    """A layer cut into equal halves with half the error each gets the zeros it had in one piece: 8 and 4 + 4, of 32."""
    whole = [curve("a", 16, (8, 2.0)), curve("b", 16, (8, 2.0))]
    cut = [whole[0], curve("b1", 8, (4, 1.0)), curve("b2", 8, (4, 1.0))]
    assert sensitivity(whole, [Counted("a", (1, 16), 16, 16), Counted("b", (1, 16), 16, 16)], 16) == [8, 8]
    assert sensitivity(cut, [Counted("a", (1, 16), 16, 16), *[Counted(n, (1, 8), 8, 8) for n in ("b1", "b2")]], 16) == [8, 4, 4]


def test_sensitivity_prunes_what_costs_nothing_first():
    """A layer whose error does not rise takes the zeros."""
    curves = [curve("a", 10, (0, 0.0)), curve("b", 10, (5, 4.0), (0, 8.0))]
    assert sensitivity(curves, [Counted("a", (1, 10), 10, 10), Counted("b", (1, 10), 10, 10)], 12) == [2, 10]


@pytest.mark.parametrize("allocation", [dp, sensitivity])
def test_no_room(allocation):
    """A total above what the layers may keep is infeasible."""
    with pytest.raises(Infeasible, match="Cannot keep 8"):
        allocation([curve("a", 10, (0, 1.0))], [Counted("a", (1, 10), 10, 7)], 8)
