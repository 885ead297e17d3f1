"""Orders of columns for N:M against brute force and published numbers."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.permutation import best_order, canonical_orders, retained, row_share, single_swaps


def uniform(seed, rows, columns):
    """Uniform scores of float32, as in the published example."""
    return torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("group", "count"), [(2, 3), (3, 10), (4, 35)])
def test_orders_that_differ_are_counted_once(group, count):
    """2M columns have C(2M, M)/2 orders that differ in which columns share a stripe: 35 for 8; the first is the present one."""
    orders = canonical_orders(group)
    splits = {frozenset((frozenset(order[:group]), frozenset(order[group:]))) for order in orders}
    assert len(orders) == len(splits) == count
    assert orders[0] == tuple(range(2 * group))


def test_swaps_of_two_stripes_are_all_there():
    """Two stripes of 8 have 64 single swaps, and staying."""
    assert len(set(single_swaps(8))) == 65


@pytest.mark.parametrize(("keep", "group"), [(2, 4), (1, 4), (3, 4), (2, 5)])
def test_retained_and_its_ceiling_from_the_definition(keep, group):
    """The sum of the N largest of every M, and of the best N/M of each row, equal a plain sort."""
    scores = uniform(0, 3, 2 * group)
    rows = scores.double().tolist()
    by_group = sum(sum(sorted(row[at : at + group])[-keep:]) for row in rows for at in (0, group))
    assert retained(scores, keep, group) == pytest.approx(by_group, rel=1e-12)
    assert row_share(scores, keep, group) == pytest.approx(sum(sum(sorted(row)[-2 * keep :]) for row in rows), rel=1e-12)


@pytest.mark.parametrize(("keep", "group"), [(2, 4), (1, 4), (3, 4), (1, 3)])
def test_two_stripes_get_the_best_order_there_is(keep, group):
    """With two stripes the search retains what the best of all permutations does."""
    scores = uniform(1, 6, 2 * group)
    best = max(
        retained(scores[:, list(order)], keep, group)
        for order in permutations(range(2 * group))
        if order[0] == 0 and order[1:group] == tuple(sorted(order[1:group])) and order[group:] == tuple(sorted(order[group:]))
    )
    assert best_order(scores, keep, group).after == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize(("rows", "columns", "low", "high"), [(128, 64, 32, 37), (64, 128, 47, 52)])
def test_published_efficacy_on_uniform_numbers(rows, columns, low, high):
    """Uniform 128 x 64: efficacy of 32 to 37 % without escapes (official code 35.5), 64 x 128: about 50 %."""
    found = best_order(uniform(0, rows, columns), 2, 4)
    assert low < found.efficacy < high
    assert found.efficacy == pytest.approx(100 * (found.after - found.before) / (found.ceiling - found.before))


@pytest.mark.parametrize(("keep", "group"), [(2, 4), (4, 8), (1, 2)])
def test_the_order_is_a_permutation_that_retains_what_it_says(keep, group):
    """Columns in the order found retain `after`, more than before and at most the ceiling."""
    scores = uniform(2, 20, 32)
    found = best_order(scores, keep, group)
    assert found.order.sort().values.tolist() == list(range(32))
    assert retained(scores[:, found.order], keep, group) == pytest.approx(found.after, rel=1e-12)
    assert found.before < found.after <= found.ceiling


def test_columns_that_fit_are_left_where_they_are():
    """Where the present order reaches the ceiling, or all scores are equal, nothing moves."""
    perfect = torch.tensor([[1.0, 1.0, 0.0, 0.0] * 4])
    for scores in (perfect, torch.ones(5, 16), torch.zeros(5, 16), torch.rand(3, 4)):
        found = best_order(scores, 2, 4)
        assert found.order.tolist() == list(range(scores.shape[1]))
        assert found.efficacy == 0


def test_a_planted_order_is_undone():
    """Two heavy columns a stripe, shuffled so that they crowd: the search retains all of them."""
    scores = torch.cat([torch.full((4, 16), 10.0), torch.ones(4, 16)], 1)
    found = best_order(scores, 2, 4)
    assert found.after == 4 * 16 * 10


def test_escapes_never_retain_less_and_repeat():
    """Random swaps keep only what is better; the same seed gives the same order."""
    scores = uniform(3, 24, 32)
    plain, escaped = best_order(scores, 2, 4), best_order(scores, 2, 4, escapes=20, seed=5)
    assert escaped.after >= plain.after
    assert torch.equal(escaped.order, best_order(scores, 2, 4, escapes=20, seed=5).order)


@pytest.mark.slow
def test_wide_layers_are_searched_in_random_pairs(monkeypatch):
    """Where a map of all pairs is too much work, random pairs gain at least nine tenths of what the map gains, on average of three."""
    matrices = [uniform(seed, 32, 64) for seed in (4, 5, 6)]
    by_map = [best_order(scores, 2, 4) for scores in matrices]
    monkeypatch.setattr("sparsify_cli.maths.permutation.WORK", 0)
    by_pairs = [best_order(scores, 2, 4) for scores in matrices]
    assert sum(found.efficacy for found in by_pairs) > 0.9 * sum(found.efficacy for found in by_map)
    assert all(found.order.sort().values.tolist() == list(range(64)) for found in by_pairs)
    assert not torch.equal(by_pairs[0].order, by_map[0].order)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_the_scale_of_weights_does_not_matter(scale):
    """Weights times a constant have the same order."""
    scores = uniform(5, 16, 24).double()
    assert torch.equal(best_order(scores * scale, 2, 4).order, best_order(scores, 2, 4).order)


def test_columns_that_make_no_whole_groups_are_refused():
    """6 columns have no groups of 4."""
    with pytest.raises(BadRequest, match="6 columns"):
        best_order(torch.ones(2, 6), 2, 4)
