"""Budgets of weights, multiply-accumulates and bytes: what fits, and what does not."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.allocate import ALLOCATIONS, Counted, Layer, erk, globally, uniform, with_floor
from sparsify_cli.maths.budget import expected_escapes, expected_sizes, largest, most_within, multiply_accumulates, packed_bytes, parameters
from sparsify_cli.recipes.budget import Budget
from sparsify_cli.values.packed import sizes
from tests.oracles import every_mask


def layer(name, *shape, seed=0):
    """A layer with random positive scores."""
    return Layer(name, shape, torch.rand(math.prod(shape), generator=torch.Generator().manual_seed(seed)))


NET = [layer("a", 8, 8), layer("b", 16, 8, seed=1), layer("c", 4, 2, seed=2)]
"""64 + 128 + 8 = 200 weights."""


@pytest.mark.parametrize("name", ALLOCATIONS)
def test_weights_are_exact(name):
    """A tenth of 200 weights is 20, and 33 are 33, whatever shares them out."""
    for text, expected in (("params=0.1", 20), ("params=33", 33), ("params=1", 200), ("params=1M", 200)):
        assert sum(largest(NET, ALLOCATIONS[name], [parameters()] * 3, Budget.parse(text))) == expected


def test_multiply_accumulates_by_hand():
    """64 weights used twice, 128 once and 8 ten times are 336; half of it, uniformly, is half of the weights."""
    amounts = [multiply_accumulates(uses) for uses in (2, 1, 10)]
    assert largest(NET, uniform, amounts, Budget.parse("macs=0.5")) == [32, 64, 4]


@given(
    name=st.sampled_from(list(ALLOCATIONS)),
    uses=st.lists(st.integers(1, 50), min_size=3, max_size=3),
    share=st.fractions(0, 1, max_denominator=1000).filter(bool),
)
def test_what_is_found_fits_and_is_the_largest(name, uses, share):
    """What the counts take is at most the budget; where the scores rank all layers, one weight more would not fit."""
    amounts, budget = [multiply_accumulates(use) for use in uses], Budget("macs", share)
    limit = budget.limit(sum(x.units * use for x, use in zip(NET, uses, strict=True)))

    def taken(counts):
        return sum(amount(count) for amount, count in zip(amounts, counts, strict=True))

    counts = largest(NET, ALLOCATIONS[name], amounts, budget)
    assert taken(counts) <= limit
    if name in ("global", "lamp") and sum(counts) < 200:
        assert taken(ALLOCATIONS[name](NET, sum(counts) + 1)) > limit


def test_what_is_fixed_counts():
    """With 100 weights that stay anyway, half of 300 leaves 50 for the layers."""
    assert sum(largest(NET, erk, [parameters()] * 3, Budget.parse("params=0.5"), fixed=100)) == 50


def test_out_of_reach_names_the_nearest():
    """Three layers that keep one weight each beside 100 fixed ones are 103 at least; that budget can be met, 102 cannot."""
    floors = with_floor(NET)
    with pytest.raises(Infeasible, match=r"allows 102 .* at least 103 stay.*params=103") as caught:
        largest(floors, uniform, [parameters()] * 3, Budget.parse("params=102"), fixed=100)
    assert caught.value.exit_code == 5
    assert largest(floors, uniform, [parameters()] * 3, Budget.parse("params=103"), fixed=100) == [1, 1, 1]


def test_dense_and_bitmask_bytes_are_exact():
    """1000 weights of 4 bytes: dense 4000; 500 kept are 125 + 2000; one of 2 bytes by itself is dense, for headers cost more."""
    assert expected_sizes(1000, 500, 4) == {"dense": 4000, "bitmask": 2125}
    assert packed_bytes(1000, 4)(500) == 2125 + 200
    assert packed_bytes(1000, 4)(1000) == 4000
    assert packed_bytes(2, 2)(1) == 4


@pytest.mark.parametrize(("weights", "kept", "longest"), [(9, 2, 2), (9, 1, 3), (8, 0, 3), (7, 7, 1), (10, 4, 1)])
def test_escapes_equal_the_mean_over_all_positions(weights, kept, longest):
    """The expected number of full runs is the mean over every choice of positions."""

    def runs(mask):
        text = "".join(".x"[int(place)] for place in mask)
        return sum(len(gap) // longest for gap in text.split("x"))

    counts = [runs(mask) for mask in every_mask(weights, kept)]
    assert expected_escapes(weights, kept, longest) == pytest.approx(sum(counts) / len(counts), rel=1e-12)


@pytest.mark.parametrize("density", [0.5, 0.1, 0.02, 0.004, 0.0005])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_expected_bytes_are_near_those_of_random_positions(density, dtype):
    """On 200,000 weights each form is within half a percent, or one escape, of what packing takes."""
    values = (torch.rand(200_000, generator=torch.Generator().manual_seed(3)) < density).to(dtype)
    expected = expected_sizes(200_000, int(values.count_nonzero()), values.element_size())
    assert expected == pytest.approx(sizes(values), rel=5e-3, abs=2)


@given(weights=st.integers(1, 5000), width=st.sampled_from([1, 2, 4, 8, 16]), block=st.sampled_from([1, 4]), data=st.data())
def test_more_weights_never_take_fewer_bytes(weights, width, block, data):
    """Bytes rise, or stay, with every unit that is kept."""
    amount, kept = packed_bytes(weights * block, width, block), data.draw(st.integers(0, weights - 1))
    assert amount(kept) <= amount(kept + 1)


def test_bytes_of_a_layer_with_two_hundred_million_weights():
    """Large layers are counted without loss: at 0.1 % the gaps of 16 bits win, 6 bytes a value and a header."""
    amount = packed_bytes(200_000_000, 4)
    assert amount(200_000) == 1_200_000 + 200
    assert amount(200_001) >= amount(200_000)


def test_a_budget_of_bytes_holds():
    """Half the bytes of two layers under global ranking: at most the budget, and less than one weight below it."""
    layers = [layer("a", 100, 100), layer("b", 50, 100, seed=1)]
    amounts = [packed_bytes(10_000, 4), packed_bytes(5000, 4)]
    counts = largest(layers, globally, amounts, Budget.parse("bytes=0.5"))
    assert 30_000 - 10 <= sum(a(k) for a, k in zip(amounts, counts, strict=True)) <= 30_000


def test_bisection():
    """The largest square up to 30 is that of 5; a limit that everything meets gives the end."""
    assert most_within(lambda n: n * n, 0, 100, 30) == 5
    assert most_within(lambda n: n * n, 0, 100, 10**9) == 100


def test_layers_of_which_only_counts_are_known():
    """Sizes alone are enough for uniform, with floors that no layer falls below."""
    counted = [Counted("a", (1, 10), 10, 10), Counted("b", (1, 90), 90, 90, 5)]
    assert largest(with_floor(counted), uniform, [parameters()] * 2, Budget.parse("params=0.3")) == [3, 27]
    assert [x.floor for x in with_floor(counted, 2)] == [2, 5]
