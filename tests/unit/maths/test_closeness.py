"""Distances between answers, by mental arithmetic."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.maths.closeness import answer_distance, profile_distance, relative_distance, similarity


def test_distance_is_the_share_of_the_answer_that_moves():
    """(1, 0) to (0, 1) is everything, (1/2, 1/2) to itself nothing: mean one half."""
    one, other = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    assert answer_distance(one, other).value == pytest.approx(0.5)
    assert answer_distance(one, one).value == 0


def test_a_profile_does_not_ask_which_samples_are_unsure():
    """Right about other samples, as often: no distance; half as sure of one of four: an eighth; never more than pair by pair."""
    one, other = torch.tensor([1.0, 0.2, 0.9, 1.0]), torch.tensor([0.2, 1.0, 1.0, 0.9])
    assert profile_distance(one, other) == pytest.approx(0.0, abs=1e-7)
    assert profile_distance(one, torch.tensor([0.5, 0.2, 0.9, 1.0])) == pytest.approx(0.125)
    drawn = torch.rand(2, 100, generator=torch.Generator().manual_seed(0))
    assert profile_distance(*drawn) <= float((drawn[0] - drawn[1]).abs().mean())


@pytest.mark.parametrize(("original", "retrained", "wanted"), [(0.0, 0.3, 0.0), (0.3, 0.0, 1.0), (0.3, 0.1, 0.75), (0.0, 0.0, None)])
def test_similarity_is_one_at_the_retrained_model(original, retrained, wanted):
    """0 where nothing changed, 1 where nothing is left to change; undefined where all are the same."""
    found = similarity(original, retrained)
    assert found == (pytest.approx(wanted) if wanted is not None else None)


def test_weights_half_way_are_half_as_far():
    """From 0 to (3, 4): the middle has relative distance one half."""
    zero, far = torch.zeros(2), torch.tensor([3.0, 4.0])
    assert relative_distance(far / 2, zero, far) == pytest.approx(0.5)
    assert relative_distance(far, zero, zero) is None
