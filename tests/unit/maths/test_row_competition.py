"""Competition inside rows: places by hand, and the same number of every row for every count."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.maths.keep import top_k
from sparsify_cli.maths.row_competition import within_rows


def test_places_by_hand():
    """Rows 9 1 5 and 2 8 7: firsts are 9, 8; then 7, 5; then 2, 1. In sixths, the highest has 6."""
    scores = within_rows(torch.tensor([[9.0, 1.0, 5.0], [2.0, 8.0, 7.0]]))
    assert (scores * 6).round().tolist() == [[6, 1, 3], [2, 5, 4]]
    assert scores[0].tolist() == pytest.approx([1, 1 / 6, 1 / 2], rel=1e-15)


def test_equal_rows_share_levels_and_equal_weights_do_not():
    """In rows of equal scores the earlier column has the higher place; equal rows have equal scores."""
    scores = within_rows(torch.ones(2, 3))
    assert (scores * 6).round().tolist() == [[6, 4, 2], [6, 4, 2]]


@pytest.mark.parametrize("values", ["random", "ties", "equal", "zeros"])
def test_any_count_is_the_same_in_every_row(values):
    """The k highest of 4 x 5 scores have k // 4 or k // 4 + 1 in every row, for every k, ties or not; they are the row's highest."""
    made = {"random": torch.randn(4, 5), "ties": torch.randint(3, (4, 5)).double(), "equal": torch.ones(4, 5), "zeros": torch.zeros(4, 5)}
    scores = within_rows(made[values])
    for count in range(21):
        kept = top_k(scores.flatten(), count).view(4, 5)
        assert set(kept.sum(1).tolist()) <= {count // 4, count // 4 + 1}
        for row, mask in zip(made[values], kept, strict=True):
            assert torch.equal(mask, top_k(row, int(mask.sum())))


def test_the_rows_with_one_more_are_those_whose_next_is_highest():
    """Firsts 3, 9, 6 and one weight in all: row 1 keeps its own; two: rows 1 and 2."""
    scores = within_rows(torch.tensor([[3.0, 0.0], [9.0, 1.0], [0.0, 6.0]])).flatten()
    assert top_k(scores, 1).nonzero().flatten().tolist() == [2]
    assert top_k(scores, 2).nonzero().flatten().tolist() == [2, 5]


def test_a_million_places_stay_different():
    """Whole numbers over a million are all different in float64."""
    assert within_rows(torch.randn(1000, 1000, dtype=torch.float64)).unique().numel() == 1_000_000
