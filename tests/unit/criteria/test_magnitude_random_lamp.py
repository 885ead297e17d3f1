"""Scores done by hand."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.criteria.lamp import Lamp
from sparsify_cli.criteria.magnitude import Magnitude
from sparsify_cli.criteria.random import Random
from sparsify_cli.values.stats import Stats


def test_magnitude_is_the_absolute_value():
    """|-2| = 2, in the dtype of the weight."""
    scores = Magnitude().score("a", torch.tensor([[-2.0, 0.5]], dtype=torch.bfloat16), Stats())
    assert scores.tolist() == [[2.0, 0.5]]
    assert scores.dtype is torch.bfloat16


def test_lamp_by_hand():
    """Weights 3, -1, 2: 9/9, 1/14, 4/13."""
    scores = Lamp().score("a", torch.tensor([[3.0, -1.0, 2.0]]), Stats())
    assert scores[0].tolist() == pytest.approx([1, 1 / 14, 4 / 13])


def test_lamp_orders_equal_magnitudes():
    """Of 2, -2, 2 the first outlives the second, which outlives the third: 1, 1/2, 1/3; zeros score 0."""
    scores = Lamp().score("a", torch.tensor([2.0, -2.0, 0.0, 2.0]), Stats())
    assert scores.tolist() == pytest.approx([1, 1 / 2, 0, 1 / 3])
    many = Lamp().score("a", torch.ones(10_000), Stats())
    assert torch.equal(many, 1 / torch.arange(1, 10_001, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_lamp_does_not_see_the_scale(scale):
    """Squares of very small and very large weights neither vanish nor overflow."""
    weight = torch.tensor([[3.0, -1.0, 2.0]], dtype=torch.float64) * scale
    assert Lamp().score("a", weight, Stats())[0].tolist() == pytest.approx([1, 1 / 14, 4 / 13], rel=1e-12)


def test_lamp_keeps_the_order_of_magnitudes():
    """Within a tensor LAMP ranks as magnitude does."""
    weight = torch.randn(50, 40)
    scores = Lamp().score("a", weight, Stats()).flatten()
    assert torch.equal(scores.argsort(), weight.abs().flatten().argsort())


def test_random_depends_on_name_and_seed_alone():
    """Another name or seed gives other numbers; another dtype or other values do not; all are in [0, 1)."""
    weight = torch.zeros(20, 30)
    scores = Random().score("a", weight, Stats())
    assert torch.equal(scores, Random(seed=0).score("a", torch.ones(20, 30, dtype=torch.bfloat16), Stats()))
    assert not torch.equal(scores, Random().score("b", weight, Stats()))
    assert not torch.equal(scores, Random(seed=1).score("a", weight, Stats()))
    assert 0 <= float(scores.min()) < 0.1 < 0.9 < float(scores.max()) < 1


def test_random_numbers_do_not_tie():
    """A million scores are all different, as they would not be in float32."""
    assert Random().score("a", torch.zeros(1000, 1000), Stats()).unique().numel() == 1_000_000
