"""Texts of tokens, by every convention of joining pieces."""

from __future__ import annotations

import pytest

from sparsify_cli.values.vocabulary import spelled


@pytest.mark.parametrize(
    ("words", "tokens", "text"),
    [
        ((), [3, 1], "3, 1"),
        (("Ġa", "Ġlit", "tle", "Ċ"), [0, 1, 2, 3], " a little\n"),
        (("▁a", "▁lit", "tle"), [0, 1, 2], " a little"),
        ((" a", " lit", "tle"), [0, 1, 2], " a little"),
        (("a", "lit", "##tle"), [0, 1, 2], "a little"),
        (("a", "b", " "), [0, 2, 1], "a b"),
        (("▁a", "<0x0A>", "<0xE2>", "<0x82>", "<0xAC>"), [0, 1, 2, 3, 4, 0, 2], " a\n€ a�"),
        (("one", "two"), [1, 0, 7, -1], "two one <7> <-1>"),
    ],
)
def test_pieces_are_joined_as_their_vocabulary_means_it(words, tokens, text):
    """Marks of spaces, joined pieces, characters, words; ids without a word stay ids."""
    assert spelled(tokens, words) == text
