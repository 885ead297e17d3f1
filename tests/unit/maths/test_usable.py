"""Which weights may stay: ranks, rooms and shares, by hand."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.errors import Infeasible
from sparsify_cli.maths.usable import Usable, best, best_of_rows, rooms
from sparsify_cli.recipes.pattern import Pattern

FREE, TWO_FOUR = Pattern(), Pattern.parse("2:4")


def usable():
    """2 x 4 weights; the second input is never active, and one weight was pruned before."""
    within = torch.tensor([[True, True, True, True], [False, True, True, True]])
    return Usable.of(torch.ones(2, 4), torch.diag(torch.tensor([1.0, 0.0, 2.0, 3.0])), within)


def test_usable_weights_come_before_dead_before_pruned():
    """Scores of usable weights stay as they are; dead ones keep their order below zero; pruned ones are last."""
    ranked = usable().ranked(torch.tensor([[0.0, 9.0, 1.0, 2.0], [5.0, 1.0, 0.0, 0.0]]))
    assert ranked[0].tolist() == [0.0, pytest.approx(-1.1), 1.0, 2.0]
    assert ranked[1].tolist() == [-3.0, -1.5, 0.0, 0.0]


def test_all_usable_scores_are_not_copied():
    """Nothing dead and nothing pruned: the scores themselves."""
    scores = torch.rand(2, 4)
    assert Usable.of(scores, torch.eye(4), None).ranked(scores) is scores


def test_rooms_by_hand():
    """Of 4, 1 and 3 places in a group 2:4 keeps 2, 1 and 2."""
    places = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 0], [1, 0, 1, 1]], dtype=torch.bool)
    assert rooms(places, TWO_FOUR).tolist() == [2, 1, 2]
    assert rooms(places, FREE).tolist() == [4, 1, 3]


def test_rows_share_equally():
    """5 of 8: the usable weights are 3 and 2; 3 of them are 2 and 1; 7 need unusable ones, and 9 are more than there are."""
    assert usable().row_counts(5, FREE) == [3, 2]
    assert usable().row_counts(3, FREE) == [2, 1]
    assert usable().row_counts(7, FREE) == [4, 3]
    with pytest.raises(Infeasible, match="9 weights of a layer should stay, and unstructured lets 8 stay"):
        usable().row_counts(9, FREE)
    with pytest.raises(Infeasible, match="2:4 lets 4 stay"):
        usable().require_room(5, TWO_FOUR)


def test_rows_take_dead_inputs_before_what_was_pruned():
    """6 usable ones in the first row, 1 beside 4 dead ones allowed in the second: 11 of 12 wanted leaves what was pruned before alone."""
    live = torch.tensor([[True] * 6, [True] + [False] * 5])
    allowed = torch.tensor([[True] * 6, [True] * 5 + [False]])
    assert Usable(live, allowed).row_counts(8, FREE) == [6, 2]
    assert Usable(live, allowed).row_counts(11, FREE) == [6, 5]
    assert Usable(live, allowed).row_counts(12, FREE) == [6, 6]
    pruned = torch.tensor([[True, False, False], [True, True, True]])
    assert Usable(torch.tensor([[True, True, True], [True, False, False]]), pruned).row_counts(4, FREE) == [1, 3]


def test_best_by_hand():
    """The highest of the layer, of groups, and of rows; among equal scores the earlier stays."""
    scores = torch.tensor([[4.0, 3.0, 3.0, 1.0], [9.0, 8.0, 7.0, 0.0]])
    assert best(scores, 4, FREE).int().tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    assert best(scores, 4, TWO_FOUR).int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0]]
    assert best(scores, 3, TWO_FOUR).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]
    assert best_of_rows(scores, [3, 1], FREE).int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0]]
    assert best_of_rows(scores, [1, 2], TWO_FOUR).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0]]
