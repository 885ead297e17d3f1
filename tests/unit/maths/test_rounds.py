"""Rounds of iterative pruning: densities and the division of a run."""

from __future__ import annotations

from fractions import Fraction

import pytest

from sparsify_cli.maths.rounds import densities, divided


def test_densities_fall_by_a_fifth_and_end_exactly() -> None:
    """0.8, 0.64, 0.512, then 0.5 exactly; 3.5 % takes 16 rounds, fifteen powers of 0.8 and the target."""
    assert densities(Fraction(1, 2), Fraction(1, 5)) == (Fraction(4, 5), Fraction(16, 25), Fraction(64, 125), Fraction(1, 2))
    found = densities(Fraction(965, 1000), Fraction(1, 5))
    assert found[:15] == tuple(Fraction(4, 5) ** r for r in range(1, 16)) and found[15:] == (Fraction(35, 1000),)
    assert densities(Fraction(0), Fraction(1, 5)) == ()


def test_trainings_are_equally_long() -> None:
    """100 steps, 4 prunings from the start: five trainings of 20; step 45 is the 6th step of the third."""
    rounds = divided(100, 4, start=Fraction(0), is_share=False)
    assert (rounds.first, rounds.others) == (20, 20)
    assert [rounds.at(step) for step in (0, 19, 20, 45, 99)] == [(0, 0), (0, 19), (1, 0), (2, 5), (4, 19)]


@pytest.mark.parametrize(("start", "is_share"), [(Fraction(5), False), (Fraction(1, 5), True)])
def test_later_trainings_start_at_step_k(start: Fraction, is_share: bool) -> None:
    """105 steps, 4 prunings: T + 4 (T - k) = 105 has T = 25 with k = 5 steps or a fifth; each later one runs steps 5 to 24."""
    rounds = divided(105, 4, start=start, is_share=is_share)
    assert (rounds.first, rounds.others, rounds.start) == (25, 20, 5)
    assert [rounds.at(step) for step in (24, 25, 44, 45, 104)] == [(0, 24), (1, 5), (1, 24), (2, 5), (4, 24)]


def test_every_step_belongs_to_one_training() -> None:
    """Whatever does not divide goes to the first; the last step of the run ends the last training."""
    for total in range(30, 60):
        rounds = divided(total, 3, start=Fraction(2), is_share=False)
        assert rounds.first + 3 * rounds.others == total
        assert rounds.at(total - 1) == (3, rounds.start + rounds.others - 1)
        assert rounds.start + rounds.others <= rounds.first


def test_too_few_steps() -> None:
    """A run without a step for each training is refused."""
    with pytest.raises(ValueError, match="too few"):
        divided(4, 7, start=Fraction(0), is_share=False)
