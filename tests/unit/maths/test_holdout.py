"""Held-out samples: a fixed choice that loses and repeats nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.maths.holdout import hold_out, shuffled


@given(n=st.integers(0, 200), share=st.floats(0, 0.99))
def test_every_position_is_on_one_side(n, share):
    """The two sides together are 0..n-1, each once."""
    stay, held = hold_out(n, share)
    assert sorted(stay.tolist() + held.tolist()) == list(range(n))


@pytest.mark.parametrize(("n", "share", "held"), [(100, 0.1, 10), (20, 0.1, 2), (5, 0.1, 1), (1, 0.5, 0), (2, 0.99, 1), (10, 0.0, 0)])
def test_how_many_are_held_out(n, share, held):
    """The rounded share, at least one where possible, never all."""
    assert len(hold_out(n, share)[1]) == held


def test_order_is_pinned():
    """The order is sha256 of `0:position`: computed by hand once for five positions, the same everywhere."""
    import hashlib

    by_hand = sorted(range(5), key=lambda i: hashlib.sha256(b"0:%d" % i).hexdigest())
    assert shuffled(5).tolist() == by_hand
    assert shuffled(5, seed=1).tolist() != by_hand
