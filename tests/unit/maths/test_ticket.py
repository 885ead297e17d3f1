"""The verdict on winning tickets, on the published pattern of accuracies."""

from __future__ import annotations

import pytest

from sparsify_cli.maths.ticket import verdict


def test_a_ticket_of_an_under_trained_network_is_no_jackpot() -> None:
    """94.0 beats its own dense network (93.4) and drawn anew (67.0) by far, but the best dense network has 97.4; fine-tuned 94.4."""
    found = verdict(dense=0.974, ticket=0.940, reinit=0.670, random=0.75, finetuned=0.944)
    assert (found.name, found.reaches_dense, found.beats_masks) == ("no prize", False, True)


def test_masks_alone_are_no_ticket() -> None:
    """Well trained: 96.5 against 96.0 with weights drawn anew is no lead, also where it reaches the dense network."""
    assert verdict(dense=0.974, ticket=0.965, reinit=0.960, random=0.955, finetuned=0.966).name == "no ticket"
    assert verdict(dense=0.965, ticket=0.965, reinit=0.960, random=0.955, finetuned=0.966).name == "no ticket"


@pytest.mark.parametrize(
    ("numbers", "name"),
    [
        ({"dense": 0.92, "ticket": 0.918, "reinit": 0.90, "random": 0.89}, "jackpot"),
        ({"dense": 0.92, "ticket": 0.9169, "reinit": 0.90, "random": 0.89}, "no prize"),
        ({"dense": 0.92, "ticket": 0.914, "reinit": 0.90, "random": 0.89, "finetuned": 0.913}, "secondary prize"),
        ({"dense": 0.92, "ticket": 0.914, "reinit": 0.90, "random": 0.89, "finetuned": 0.919}, "no prize"),
        ({"dense": 0.92, "ticket": 0.930, "reinit": 0.90, "random": 0.918}, "no prize"),
        ({"dense": 0.92, "ticket": 0.930, "reinit": 0.925, "random": 0.89}, "no ticket"),
    ],
)
def test_each_condition_decides(numbers: dict[str, float], name: str) -> None:
    """Reaching dense within 0.3 points, leading by a point, and a sparsity where random masks fall behind: all are needed."""
    assert verdict(**numbers).name == name
