"""Patterns: texts, what they force, and what is none."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.pattern import Pattern


@pytest.mark.parametrize(
    ("text", "pattern", "implied", "block"),
    [
        ("unstructured", Pattern(), Fraction(0), 1),
        ("2:4", Pattern(keep=2, group=4), Fraction(1, 2), 1),
        ("2:4T", Pattern(keep=2, group=4, transposed=True), Fraction(1, 2), 1),
        ("1:4", Pattern(keep=1, group=4), Fraction(3, 4), 1),
        ("3:4", Pattern(keep=3, group=4), Fraction(1, 4), 1),
        ("block:4x1", Pattern(rows=4, columns=1), Fraction(0), 4),
        ("block:2x3", Pattern(rows=2, columns=3), Fraction(0), 6),
    ],
)
def test_texts(text, pattern, implied, block):
    """N:M keeps N of M: 1:4 forces three quarters to zero; a block forces nothing but has a size."""
    found = Pattern.parse(text)
    assert (found, str(found), found.implied_sparsity, found.block_size) == (pattern, text, implied, block)
    assert Pattern.parse(found) is found
    assert found.is_grouped is (":" in text and not text.startswith("block"))


def test_plain_words():
    """The description says how many stay, not how many go."""
    assert Pattern.parse("1:4").describe() == "keep 1 of every 4 along the input channels"
    assert Pattern.parse("block:4x1").describe() == "blocks of 4 outputs x 1 inputs"
    assert Pattern.parse("unstructured").describe() == "every weight on its own"


@pytest.mark.parametrize(
    "text",
    ["4:4", "4:4T", "2:4t", "T", "0:4", "5:4", "2:", ":4", "2/4", "block:1x1", "block:0x4", "block:4", "", "2:4 ", "-1:4", "x", 24, None],
)
def test_what_is_no_pattern(text):
    """Groups that keep everything or nothing, blocks of one weight, other words and a bare number: one sentence."""
    with pytest.raises(BadRequest) as caught:
        Pattern.parse(text)
    assert "pattern" in str(caught.value)
