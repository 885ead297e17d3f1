"""Budgets: what people write, and what is refused."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.budget import Budget


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("params=0.1", "params", Fraction(1, 10)),
        ("params=30000", "params", 30_000),
        ("params=30k", "params", 30_000),
        ("params=1", "params", 1),
        ("macs=.25", "macs", Fraction(1, 4)),
        ("macs = 1.5 M", "macs", 1_500_000),
        ("bytes=2MB", "bytes", 2_000_000),
        ("bytes=2mib", "bytes", 2_097_152),
        ("bytes=0.5kB", "bytes", 500),
        ("bytes=1536", "bytes", 1536),
    ],
)
def test_what_is_read(text, kind, value):
    """A number up to 1 is a share; a whole number above 1, or one with a unit, is an amount."""
    assert Budget.parse(text) == Budget(kind, Fraction(value))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.1", "is not a budget"),
        ("", "is not a budget"),
        ("params=", "is not a budget"),
        ("params=10%", "is not a budget"),
        ("params=-1", "is not a budget"),
        ("params=nan", "is not a budget"),
        ("params=1e9", "is not a budget"),
        ("params=" + "9" * 5000, "is not a budget"),
        ("params=0", "above 0 and up to 1"),
        ("params=1.5", "whole number above 1"),
        ("bytes=0.0001kB", "whole number above 1"),
        ("bytes=1B", "whole number above 1"),
        ("flops=0.1", "no kind of budget"),
        ("param=0.1", "Did you mean 'params'"),
        ("bytes=2QB", "no unit of bytes"),
        ("params=2MB", "no unit of params"),
    ],
)
def test_what_is_refused(text, said):
    """Anything else is a bad request that shows how to write one."""
    with pytest.raises(BadRequest, match=said) as caught:
        Budget.parse(text)
    assert caught.value.exit_code == 2
    assert "Write params=0.1" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["params=0.1", "params=30k", "params=1", "macs=10M", "bytes=2MB", "bytes=3KiB", "bytes=1537B", "params=1537"]
)
def test_written_as_it_was(text):
    """The shortest text with the largest unit that divides."""
    assert str(Budget.parse(text)) == text


@given(
    kind=st.sampled_from(["params", "macs", "bytes"]),
    value=st.integers(2, 10**15) | st.integers(1, 10**6).map(lambda n: Fraction(n, 10**6)),
)
def test_reading_what_is_written(kind, value):
    """Any budget is read back from its own text, and a budget is read as itself."""
    budget = Budget(kind, Fraction(value))
    assert Budget.parse(str(budget)) == budget
    assert Budget.parse(budget) is budget


def test_limits():
    """A share is rounded down, so that it is never exceeded; an amount is what it says, also above dense."""
    assert Budget.parse("params=0.1").limit(268_336) == 26_833
    assert Budget.parse("params=1").limit(7) == 7
    assert Budget.parse("bytes=2kB").limit(7) == 2000
    assert Budget.parse("macs=0.5").describe(9) == "at most 4 multiply-accumulates of one sample"
