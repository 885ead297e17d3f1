"""Answers at every position of a sample."""

import pytest
import torch

from sparsify_cli.errors import Anomalous
from sparsify_cli.values.positions import Positions, number_positions, token_positions


def test_tokens_by_hand():
    """Of (1/4, 3/4) the second is said; its loss is ln 4/3, the other's ln 4; where nothing is right there is no loss."""
    logits = torch.tensor([[[0.25, 0.75]] * 3]).log()
    said, losses, counted = token_positions(logits, torch.tensor([[1, 0, -100]]))
    assert said.tolist() == [[1, 1, 1]] and counted.tolist() == [[True, True, False]]
    assert losses[0].tolist() == pytest.approx([0.2876821, 1.3862944, 0.0])


def test_numbers_by_hand():
    """Squared errors, one for each number of an image."""
    said, losses, counted = number_positions(torch.ones(1, 1, 2, 2), torch.tensor([[[[0.0, 1.0], [2.0, 4.0]]]]))
    assert losses.tolist() == [[1.0, 0.0, 1.0, 9.0]] and said.shape == (1, 4) and bool(counted.all())


def test_losses_that_are_not_finite_are_refused():
    """One of two samples."""
    bad = torch.tensor([[1.0], [float("nan")]])
    with pytest.raises(Anomalous, match="1 of 2 samples"):
        Positions("numbers", bad, bad, bad, torch.ones(2, 1, dtype=torch.bool), ("a", "b"))
