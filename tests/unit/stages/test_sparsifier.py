"""The sparsifier: criterion, allocation and pattern closed over."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch

from sparsify_cli.errors import BadRequest, Infeasible, NonFinite, UnknownName
from sparsify_cli.recipes.option import Choice
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.recipes.verbs import PruneRecipe
from sparsify_cli.stages.sparsifier import collapse_notes, pattern_notes, require_held, sparsifier
from sparsify_cli.values.mask_set import MaskSet

WEIGHTS = {"a": torch.tensor([[1.0, -8.0, 3.0, -4.0], [5.0, -6.0, 7.0, 2.0]]), "b": torch.tensor([[0.5, 9.0, 0.25, 10.0]])}
HALF = Fraction(1, 2)


def chooser(**fields):
    """A sparsifier over both tensors."""
    return sparsifier(PruneRecipe(**fields), list(WEIGHTS))


def kept(masks):
    """What stays, by name, as 0 and 1."""
    return {name: mask.int().tolist() for name, mask in masks.items()}


def test_global_magnitude_by_hand():
    """The six largest of twelve magnitudes: 10, 9, 8, 7, 6, 5."""
    assert kept(chooser().once(WEIGHTS, HALF, pruned=MaskSet())) == {"a": [[0, 1, 0, 0], [1, 1, 1, 0]], "b": [[0, 1, 0, 1]]}
    assert chooser()(WEIGHTS, HALF) == chooser().once(WEIGHTS, HALF, pruned=MaskSet())


def test_two_of_four_by_hand():
    """The two largest of each four, whatever the sparsity below what the pattern forces during training."""
    wanted = {"a": [[0, 1, 0, 1], [0, 1, 1, 0]], "b": [[0, 1, 0, 1]]}
    two_four = chooser(pattern=Pattern.parse("2:4"))
    assert kept(two_four(WEIGHTS, Fraction(0))) == kept(two_four(WEIGHTS, Fraction(1, 10))) == wanted
    with pytest.raises(BadRequest):
        two_four.once(WEIGHTS, Fraction(1, 10), pruned=MaskSet())


def test_pruned_weights_do_not_return():
    """The largest weight, pruned before, goes first, then 0.25, 0.5 and 1; also where all scores are equal nothing pruned comes back."""
    pruned = MaskSet({"a": WEIGHTS["a"].abs() < 8, "b": torch.ones(1, 4, dtype=torch.bool)})
    third = chooser().once(WEIGHTS, Fraction(4, 12), pruned=pruned)
    assert kept(third) == {"a": [[0, 0, 1, 1], [1, 1, 1, 1]], "b": [[0, 1, 0, 1]]}
    flat = {name: torch.ones_like(weight) for name, weight in WEIGHTS.items()}
    assert chooser().once(flat, Fraction(3, 12), pruned=pruned) <= pruned


def test_frozen_weights_stay():
    """What the floor keeps is kept, however small, and the count is still exact."""
    floor = MaskSet({"a": WEIGHTS["a"] == 1, "b": WEIGHTS["b"] == 0.25})
    masks = chooser().above(floor).once(WEIGHTS, HALF, pruned=MaskSet())
    assert floor <= masks and masks.kept == 6


def test_what_sparsity_is_meant():
    """The one asked for; the pattern's own where none is asked; neither is an error."""
    assert chooser().target(WEIGHTS, Fraction(1, 3), pruned=MaskSet()) == Fraction(1, 3)
    assert chooser(pattern=Pattern.parse("1:4")).target(WEIGHTS, None, pruned=MaskSet()) == Fraction(3, 4)
    with pytest.raises(BadRequest, match="No sparsity was asked for"):
        chooser().target(WEIGHTS, None, pruned=MaskSet())


def test_strategies_are_checked():
    """An unknown criterion and an unknown option are refused with what there is."""
    with pytest.raises(UnknownName, match=r"Did you mean 'magnitude'"):
        chooser(criterion=Choice("magnitde"))
    with pytest.raises(UnknownName, match="option of the criterion random"):
        chooser(criterion=Choice("random", {"sed": 1}))


def test_scores_that_are_no_numbers():
    """A weight that is NaN cannot be ranked."""
    with pytest.raises(NonFinite, match="1 tensors, first b"):
        chooser()({**WEIGHTS, "b": torch.tensor([[float("nan")] * 4])}, HALF)


def test_notes():
    """Layers that cannot carry the pattern and layers that lost everything are named; otherwise nothing is said."""
    two_four = Pattern.parse("2:4")
    assert pattern_notes({"a": (8, 4), "b": (8, 8, 3, 3)}, two_four) == ()
    (note,) = pattern_notes({"conv1": (8, 3, 3, 3), "fc": (8, 4)}, two_four)
    assert note.startswith("1 of 2 layers cannot carry 2:4 and stay as they are: conv1 ")
    assert collapse_notes(MaskSet({"a": torch.tensor([True])})) == ()
    (note,) = collapse_notes(MaskSet({"a": torch.tensor([True]), "b": torch.tensor([False])}))
    assert note.startswith("1 layer keeps no weight (b)")


def test_the_result_is_checked():
    """Masks off by more than a block are refused; off by one block are not."""
    masks = MaskSet({"a": torch.tensor([[True, False], [True, True]])})
    require_held(masks, Fraction(1, 4), Pattern())
    require_held(masks, HALF, Pattern())
    with pytest.raises(Infeasible, match="do not hold the pattern block:2x1"):
        require_held(masks, HALF, Pattern.parse("block:2x1"))
    with pytest.raises(Infeasible, match=r"reach sparsity 0\.25, not 0\.75.*2 weights"):
        require_held(masks, Fraction(3, 4), Pattern())
