"""Allocations that compare scores: LAMP and OWL by hand and as properties, and floors that empty no layer."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.criteria.lamp import Lamp
from sparsify_cli.errors import BadRequest, Infeasible
from sparsify_cli.maths.allocate import ALLOCATIONS, Layer, for_many_totals, globally, lamp, lamp_scored, owl, uniform, with_floor
from sparsify_cli.maths.choose_masks import choose_masks
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.values.stats import Stats
from tests.strategies import scores, seeds

INF = torch.inf


def vector(name, *values):
    """A one-row layer with these scores."""
    return Layer(name, (1, len(values)), torch.tensor(values, dtype=torch.float32))


@st.composite
def layers(draw):
    """One to four layers, some of whose units may not or must stay."""
    found = []
    for i in range(draw(st.integers(1, 4))):
        values = draw(scores(most=20))
        bounds = draw(st.lists(st.sampled_from([0.0, 0.0, 0.0, INF, -INF]), min_size=values.numel(), max_size=values.numel()))
        found.append(Layer(str(i), (1, values.numel()), values + torch.tensor(bounds)))
    return found


def totals(found):
    """Totals there is room for."""
    return st.integers(sum(layer.floor for layer in found), sum(layer.cap for layer in found))


@pytest.mark.parametrize("allocation", ALLOCATIONS.values())
@pytest.mark.parametrize("least", [0, 1])
@given(found=layers(), data=st.data())
def test_counts_are_exact_within_their_bounds(allocation, least, found, data):
    """Every allocation keeps exactly the total, each layer between its floor (raised or not) and cap."""
    found = with_floor(found, least)
    total = data.draw(totals(found))
    counts = allocation(found, total)
    assert sum(counts) == total
    assert all(layer.floor <= count <= layer.cap for layer, count in zip(found, counts, strict=True))
    assert not least or all(count > 0 or layer.cap == 0 for layer, count in zip(found, counts, strict=True))


@pytest.mark.parametrize("allocation", [globally, lamp])
@given(found=layers())
def test_rankings_are_monotone(allocation, found):
    """With one more to keep, no layer keeps fewer."""
    room = range(sum(layer.floor for layer in found), sum(layer.cap for layer in found) + 1)
    for fewer, more in pairwise(allocation(found, total) for total in room):
        assert all(a <= b for a, b in zip(fewer, more, strict=True))


@pytest.mark.parametrize("allocation", ALLOCATIONS.values())
@given(found=layers(), data=st.data())
def test_many_totals_are_each_total(allocation, found, data):
    """What is computed once for many totals gives the counts of each, ties and bounds included."""
    found = with_floor(found, data.draw(st.integers(0, 2)))
    total = data.draw(totals(found))
    assert for_many_totals(allocation, found)(total) == allocation(found, total)


def test_lamp_scores_by_hand():
    """2, 1, 1: 4/4, then 1/5 for the earlier and 1/6 for the later; infinite scores stay and are in no sum; below zero is zero."""
    assert lamp_scored([vector("a", 1.0, 2.0, 1.0)])[0].scores.tolist() == pytest.approx([1 / 5, 1, 1 / 6])
    assert lamp_scored([vector("a", 1.0, INF, 2.0, -INF, -3.0)])[0].scores.tolist() == pytest.approx([1 / 5, INF, 1, -INF, 0])
    assert lamp_scored([vector("a", 0.0, 0.0)])[0].scores.tolist() == [0, 0]
    assert lamp_scored([vector("a", 1e30, 1e30)])[0].scores.tolist() == pytest.approx([1, 0.5])


@given(seed=seeds, total=st.integers(0, 90))
def test_lamp_counts_are_those_of_the_criterion(seed, total):
    """Sharing magnitudes out by LAMP is ranking the LAMP criterion's scores over all layers."""
    generator = torch.Generator().manual_seed(seed)
    weights = {"a": torch.randn(5, 6, generator=generator), "b": torch.randn(6, 10, generator=generator) * 1e-3}
    ranked = Lamp().scores(weights, Stats())
    magnitudes = [Layer(n, tuple(w.shape), w.abs().flatten()) for n, w in weights.items()]
    assert lamp(magnitudes, total) == globally([Layer(n, (1, s.numel()), s.flatten()) for n, s in ranked.items()], total)


def test_lamp_does_not_see_scale():
    """A layer with scores a thousand times smaller keeps as much; global ranking would empty it."""
    pair = [vector("a", 1000.0, 2000.0, 3000.0, 4000.0), vector("b", 1.0, 2.0, 3.0, 4.0)]
    assert lamp(pair, 4) == [2, 2]
    assert globally(pair, 4) == [4, 0]


def test_owl_by_hand():
    """One of 10 scores outlies in `a` and none in `b`: at half density they differ by .16 about .5, so 58 and 42 of 100 each."""
    outlying, even = vector("a", *([1.0] * 9 + [100.0]) * 10), vector("b", *[1.0] * 100)
    assert owl([outlying, even], 100) == [58, 42]
    assert owl([even, even], 101) == [51, 50]


def test_owl_weighs_layers_by_size():
    """The mean over weights is what was asked: 100 and 300 weights at half density are .62 and .46."""
    outlying, even = vector("a", *([1.0] * 9 + [100.0]) * 10), vector("b", *[1.0] * 300)
    assert owl([outlying, even], 200) == [62, 138]


def test_owl_gives_a_block_one_density():
    """The paper's unit: outliers of a block's layers are counted together, and all of them keep the same share."""
    outlying, even = [1.0] * 90 + [100.0] * 10, [1.0] * 100
    layers = [vector(f"layer.{name}.weight", *scores) for name, scores in (("0.a", outlying), ("0.b", even), ("1.a", even), ("1.b", even))]
    assert owl(layers, 200) == [58, 58, 42, 42]
    assert for_many_totals(owl, layers)(200) == [58, 58, 42, 42]


def test_owl_empties_no_layer_at_high_sparsity():
    """At 4 % density the width is .04 instead of .16: densities .06 and .02."""
    outlying, even = vector("a", *([1.0] * 9 + [100.0]) * 10), vector("b", *[1.0] * 100)
    assert owl([outlying, even], 8) == [6, 2]


def test_owl_looks_at_what_may_stay():
    """Units that may not stay are in no mean: 6 of 24 with cap 10 keep at most that, and total and bounds hold."""
    tight = vector("a", *[1.0] * 10, *[-INF] * 14)
    assert owl([tight, vector("b", *[1.0] * 24)], 34) == [10, 24]
    assert owl([vector("a", *[-INF] * 3), vector("b", *[1.0] * 3)], 2) == [0, 2]


def test_a_floor_keeps_the_best_of_each_layer():
    """Global ranking would empty `b`; with a floor of one its best weight stays, and LAMP scores do not change by it."""
    pair = [vector("a", 5.0, 6.0, 7.0), vector("b", 1.0, 2.0, 3.0)]
    assert globally(pair, 2) == [2, 0]
    assert globally(with_floor(pair), 2) == [1, 1]
    assert uniform(with_floor([vector("a", *[1.0] * 100), vector("b", 1.0)]), 10) == [9, 1]
    steep = [vector("a", 10.0, 1.0, 1.0), vector("b", 2.0, 1.9, 1.8)]
    assert lamp(with_floor(steep), 4) == lamp(steep, 4) == [1, 3]


def test_what_cannot_stay_raises_no_floor():
    """A layer that may keep nothing has floor 0, one that must keep two has floor 2."""
    assert [layer.floor for layer in with_floor([vector("a", -INF, -INF), vector("b", INF, INF, 1.0), vector("c", 1.0)])] == [0, 2, 1]


def chosen(sparsity, **options):
    """Masks of a strong and a weak layer under global ranking, as lists."""
    net = {"a": torch.tensor([[5.0, 6.0, 7.0, 8.0]]), "b": torch.tensor([[1.0, 3.0, 2.0, 0.0]])}
    masks = choose_masks(net, pattern=Pattern(), sparsity=Fraction(sparsity), **{"allocation": "global", **options})
    return {name: masks[name].int().flatten().tolist() for name in masks}


def test_masks_empty_no_layer_when_asked():
    """Two of eight stay: without a floor both in `a`, with one the best of each."""
    assert chosen("0.75") == {"a": [0, 0, 1, 1], "b": [0, 0, 0, 0]}
    assert chosen("0.75", at_least=1) == {"a": [0, 0, 0, 1], "b": [0, 1, 0, 0]}


def test_too_few_for_every_layer():
    """One of eight cannot stay in both layers: exit 5, and at most .75 can be asked for."""
    with pytest.raises(Infeasible, match=r"Only 1 .* in 2 layers, and 2 must.*0\.75") as caught:
        chosen("0.875", at_least=1)
    assert caught.value.exit_code == 5


def test_masks_by_a_function_of_costs():
    """A function shares out as well as a name; a name that needs costs is refused with a sentence."""
    assert chosen("0.5", allocation=lambda layers, total: [1, total - 1]) == {"a": [0, 0, 0, 1], "b": [1, 1, 1, 0]}
    with pytest.raises(BadRequest, match="dp needs each layer's error"):
        chosen("0.5", allocation="dp")
