"""Allocations: counts done by hand, and densities published for Erdos-Renyi-Kernel."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from sparsify_cli.maths.allocate import ALLOCATIONS, Layer, erk, globally, uniform
from sparsify_cli.maths.keep import keep_count
from sparsify_cli.maths.knapsack import dp, sensitivity
from sparsify_cli.recipes.allocation import ALLOCATION_NAMES, ALLOCATION_SUMMARIES, NEEDS_COSTS, parse_allocation


def layer(name, *shape):
    """A layer of weights that all score one."""
    return Layer(name, shape, torch.ones(math.prod(shape)))


def vector(name, values):
    """A one-row layer with these scores."""
    return Layer(name, (1, len(values)), torch.tensor(values))


def densities(layers, sparsity):
    """Density each layer gets from Erdos-Renyi-Kernel, by name."""
    counts = erk(layers, keep_count(sum(item.units for item in layers), sparsity))
    return {item.name: count / item.units for item, count in zip(layers, counts, strict=True)}


MLP = [layer("fc1", 300, 784), layer("fc2", 100, 300), layer("fc3", 10, 100)]


def resnet20():
    """Convolutions and classifier of ResNet-20 with parameter-free shortcuts: 268,336 weights."""
    layers, width = [layer("conv1", 16, 3, 3, 3)], 16
    for stage, outputs in enumerate((16, 32, 64)):
        for block in range(3):
            for conv in range(2):
                layers.append(layer(f"s{stage}b{block}c{conv + 1}", outputs, width, 3, 3))
                width = outputs
    return [*layers, layer("fc", 10, 64)]


def test_names_and_summaries_match_the_functions():
    """What the command line lists without torch is what there is, in the words of the docstrings."""
    assert tuple(ALLOCATIONS) == ALLOCATION_NAMES
    every = {**ALLOCATIONS, "dp": dp, "sensitivity": sensitivity}
    named = {name: summary for name, summary in ALLOCATION_SUMMARIES.items() if name != "auto"}  # one of the others, by the recipe
    assert {name: function.__doc__.splitlines()[0] for name, function in every.items()} == named
    assert set(named) - set(ALLOCATION_NAMES) == NEEDS_COSTS


def test_known_names_pass_and_unknown_are_answered():
    """A typo gets the nearest name."""
    from sparsify_cli.errors import UnknownName

    assert parse_allocation("erk") == "erk"
    with pytest.raises(UnknownName, match="Did you mean 'uniform'"):
        parse_allocation("unifrom")


def test_uniform_gives_the_same_fraction():
    """30 of 100 weights: 3 of 10 and 27 of 90."""
    assert uniform([layer("a", 1, 10), layer("b", 9, 10)], 30) == [3, 27]


def test_uniform_shares_what_a_cap_withholds():
    """A layer with two eligible weights keeps two; the equal others share the remaining ten."""
    tight = vector("a", [1.0, -torch.inf, -torch.inf, 1.0, -torch.inf, -torch.inf])
    assert uniform([tight, layer("b", 1, 6), layer("c", 1, 6)], 12) == [2, 5, 5]


def test_uniform_honours_what_must_stay():
    """Five weights that must stay do, and the other layer gives way."""
    frozen = vector("a", [torch.inf] * 5 + [0.0] * 5)
    assert uniform([frozen, layer("b", 1, 10)], 8) == [5, 3]


def test_global_counts_follow_the_scores():
    """Of 1..4 and 3..6 the best four are 4, 4, 5 and 6."""
    assert globally([vector("a", [1.0, 2.0, 3.0, 4.0]), vector("b", [3.0, 4.0, 5.0, 6.0])], 4) == [1, 3]


def test_global_ties_go_to_the_earlier_layer():
    """All scores equal: the first layer fills first."""
    assert globally([layer("a", 1, 3), layer("b", 1, 3)], 4) == [3, 1]


@pytest.mark.parametrize(("sparsity", "expected"), [("0.95", (0.0385, 0.1113, 0.919)), ("0.99", (0.0077, 0.0223, 0.184))])
def test_erk_on_the_mlp(sparsity, expected):
    """784-300-100-10: densities of the RigL reference code."""
    got = densities(MLP, Fraction(sparsity))
    assert list(got.values()) == pytest.approx(expected, abs=6e-4)


def test_erk_on_resnet20():
    """ResNet-20 at 90 %: the first convolution and the classifier stay dense, the rest follows the reference."""
    layers = resnet20()
    got = densities(layers, Fraction(9, 10))
    assert sum(item.units for item in layers) == 268_336
    assert got["conv1"] == got["fc"] == 1
    expected = {"s0b0c1": 0.3026, "s0b2c2": 0.3026, "s1b0c1": 0.2150, "s1b0c2": 0.1394, "s1b2c2": 0.1394}
    expected |= {"s2b0c1": 0.1015, "s2b0c2": 0.0667, "s2b2c2": 0.0667}
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=3e-4)


def test_erk_dense_layers_of_resnet20():
    """At 95 % only the classifier stays dense and the first convolution keeps .517; at 98 % no layer is dense."""
    tight, tighter = densities(resnet20(), Fraction(95, 100)), densities(resnet20(), Fraction(98, 100))
    assert tight["fc"] == 1
    assert tight["conv1"] == pytest.approx(0.517, abs=2e-3)
    assert max(tighter.values()) < 1


def test_erk_fixes_ties_together():
    """Two equal small layers are capped at once and the large one takes the rest: 2 + 2 + 56 of 64."""
    assert erk([layer("a", 1, 2), layer("b", 1, 2), layer("c", 10, 6)], 60) == [2, 2, 56]


@pytest.mark.parametrize("name", ALLOCATION_NAMES)
@pytest.mark.parametrize("total", [0, 1, 17, 24])
def test_counts_sum_to_the_total(name, total):
    """Every allocation gives away exactly what there is."""
    layers = [layer("a", 2, 3), layer("b", 3, 5), layer("c", 3, 1)]
    counts = ALLOCATIONS[name](layers, total)
    assert sum(counts) == total
    assert all(0 <= count <= item.units for count, item in zip(counts, layers, strict=True))
