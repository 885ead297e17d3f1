"""The way of a solver of networks to its target: densities that fall evenly, budgets met by its own scores, N:M that tightens."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from sparsify_cli.criteria.magnitude import Magnitude
from sparsify_cli.maths.choose_masks import holds
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.stages.on_the_way import Way, on_the_way
from sparsify_cli.stages.sparsifier import Sparsifier
from sparsify_cli.values.mask_set import MaskSet

NAMES = ("a.weight", "b.weight")


def scores() -> dict[str, Tensor]:
    """Two tensors of 128 scores, those of the second larger."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.rand(8, 16, generator=generator) + i for i, name in enumerate(NAMES)}


def chooser(pattern: str = "unstructured") -> Sparsifier:
    """One ranking over both."""
    return Sparsifier(NAMES, Magnitude(), "global", Pattern.parse(pattern))


def densities(way: Way, stages: int = 8) -> list[Fraction]:
    """The density after each stage."""
    return [1 - way.choose(scores(), Fraction(stage + 1, stages)).sparsity for stage in range(stages)]


def test_densities_fall_by_the_same_factor() -> None:
    """To a tenth in four stages: each keeps 56 %, to a weight."""
    found = densities(Way(chooser(), Fraction(9, 10), MaskSet()), 4)
    assert [float(one) for one in found] == pytest.approx([0.1 ** (k / 4) for k in (1, 2, 3, 4)], abs=1 / 256)
    assert on_the_way(Fraction(9, 10), Fraction(1)) == Fraction(9, 10)


@pytest.mark.parametrize(
    ("pattern", "steps"), [("2:4", {1, 0.75, 0.5}), ("1:4", {1, 0.75, 0.5, 0.25}), ("4:8T", {1, 0.875, 0.75, 0.625, 0.5})]
)
def test_patterns_tighten(pattern: str, steps: set[float]) -> None:
    """One weight less of each group at a time, at the end the pattern; no stage takes more than the last."""
    asked = Pattern.parse(pattern)
    found = densities(Way(chooser(pattern), asked.implied_sparsity, MaskSet()), 12)
    assert {float(one) for one in found} == steps and found == sorted(found, reverse=True)
    assert holds(Way(chooser(pattern), asked.implied_sparsity, MaskSet()).choose(scores(), Fraction(1)), asked)


def test_a_pattern_and_more_zeros() -> None:
    """2:4 at 80 %: the pattern holds from the stage on that has half of the zeros, then their number goes on growing."""
    way = Way(chooser("2:4"), Fraction(4, 5), MaskSet())
    found = [way.choose(scores(), Fraction(stage + 1, 8)) for stage in range(8)]
    assert [holds(masks, Pattern.parse("2:4")) for masks in found] == [False] * 3 + [True] * 5
    assert found[-1].sparsity == pytest.approx(0.8, abs=1 / 256) and found[5].sparsity > found[4].sparsity


def test_what_was_pruned_stays_pruned() -> None:
    """Also where no pattern is asked for yet."""
    first = chooser().chosen(scores(), Fraction(1, 4), None)
    for masks in (Way(chooser("2:4"), Fraction(3, 5), first).choose(scores(), Fraction(stage, 6)) for stage in range(1, 7)):
        assert not any(bool((masks[name] & ~first[name]).any()) for name in NAMES)


def test_a_budget_is_met_by_the_scores_at_hand() -> None:
    """A weight of the first tensor costs three times one of the second: what fits hangs on which ones the scores want."""

    def fitting(layers: object) -> list[int]:
        wanted = sum(float(layer.scores.mean()) for layer in layers)  # type: ignore[attr-defined]
        return [10, round(50 / wanted)]

    free = chooser()
    met = Sparsifier(NAMES, Magnitude(), lambda given, _: [64, 64], Pattern(), freely=free.allocation, fitting=fitting)
    way = Way(met, Fraction(1, 2), MaskSet())
    last = way.choose(scores(), Fraction(1))
    there = round(50 / sum(float(one.mean()) for one in scores().values()))
    assert [int(last[name].sum()) for name in NAMES] == [10, there]
    half = way.choose(scores(), Fraction(1, 2))
    assert half.kept == pytest.approx(((10 + there) / 256) ** 0.5 * 256, abs=1) and half == free.chosen(scores(), half.sparsity, None)


@pytest.mark.parametrize(("pattern", "target"), [("2:4T", Fraction(1, 2)), ("unstructured", Fraction(9, 10)), ("1:4", Fraction(3, 4))])
def test_what_an_earlier_stage_took_does_not_come_back(pattern: str, target: Fraction) -> None:
    """Though the scores change altogether, and shares of layers with them, as many stay in the end as were asked for."""
    rules: list[str] = ["global", "owl"]
    for rule in rules:
        choose = Way(replace(chooser(pattern), allocation=rule), target, MaskSet()).choose
        before = MaskSet({name: torch.ones(8, 16, dtype=torch.bool) for name in NAMES})
        for stage in range(1, 9):
            generator = torch.Generator().manual_seed(stage)
            fresh = {name: torch.rand(8, 16, generator=generator).pow(4) * before[name] for name in NAMES}
            masks = choose(fresh, Fraction(stage, 8))
            assert not any(bool((masks[name] & ~before[name]).any()) for name in NAMES)
            before = masks
        assert before.sparsity == pytest.approx(float(target), abs=1 / 256) and holds(before, Pattern.parse(pattern))


def test_no_stage_goes_beyond_the_target() -> None:
    """Rounding would take all that is left before the last stage."""
    target = 1 - Fraction(1, 2_000_000)
    assert on_the_way(target, Fraction(7, 8)) <= target
