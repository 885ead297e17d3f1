"""Training cost: the published shares, and each formula on numbers that are easy."""

from __future__ import annotations

import pytest

from sparsify_cli.maths.training_flops import alternating, forward, gradual, plain, rigl, snfs, twice


def test_wide_resnet_with_erk_at_80_percent():
    """WRN-22-2 (f_S = .3521 of dense): static and SET cost .3521 of dense training, RigL with dT = 100 .3542, SNFS .568."""
    assert plain(0.3521) / plain(1.0) == pytest.approx(0.3521)
    assert rigl(0.3521, 1.0, every=100) / plain(1.0) == pytest.approx(0.3542, abs=5e-5)
    assert snfs(0.3521, 1.0) / plain(1.0) == pytest.approx(0.56807, abs=5e-5)


def test_rigl_between_its_ends():
    """A dense gradient after every single step: (3 + 12) / 2 with f_S = 1 and f_D = 10; hardly ever: 3."""
    assert rigl(1, 10, every=1) == 7.5
    assert rigl(1, 10, every=10**9) == pytest.approx(3)


def test_gradual_pruning():
    """Steps at 0, 50 and 100 % of f_D = 4: 12, 6 and 0, on average 6."""
    assert gradual(4, [0.0, 0.5, 1.0]) == 6


def test_alternating_phases():
    """Three sparse steps of 3 and one dense of 30: 39 / 4."""
    assert alternating(1, 10, sparse_steps=3, dense_steps=1) == 9.75


def test_two_gradients_cost_twice():
    """SAM on a dense network: 6 f_D."""
    assert twice(plain(5)) == 30


def test_the_forward_pass():
    """A convolution whose weights are used 64 times keeps 10, a linear layer 7; what is not named is not counted."""
    assert forward({"conv.weight": 64, "fc.weight": 1, "idle.weight": 5}, {"conv.weight": 10, "fc.weight": 7}) == 647
