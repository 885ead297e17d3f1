"""Static masks: random with exact counts, never changed; what goes with a pattern and what does not."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch

from sparsify_cli.errors import BadRequest
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.regimes.rigl import Rigl
from sparsify_cli.regimes.static import Static
from sparsify_cli.training.engine import engine
from sparsify_cli.values.mask_set import MaskSet
from sparsify_cli.values.run import Run
from tests.sparse_runs import KEPT, STILL, choose, resumed, run_of, same, states, trained


@dataclass(frozen=True)
class Choosing:
    """A choice of masks that says its pattern, or what it follows."""

    pattern: Pattern
    follows: tuple[str, ...] = ()

    def __call__(self, weights, sparsity, *, within=None):
        """By magnitude."""
        return choose(weights, sparsity, within=within)

    def knowing(self, movement):
        """The same."""
        return self


def counts(run: Run) -> list[int]:
    """Counts of both layers."""
    return [int(mask.sum()) for mask in run.masks.values()]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_masks_never_change(optimizer):
    """One mask for all steps; counts of the recipe; masked weights zero; a resumed run ends with the same bits."""
    found = states(run_of(optimizer=optimizer), Static())
    assert all(same(found[0]["masks"], state["masks"]) for state in found)
    assert {name: int(mask.sum()) for name, mask in found[0]["masks"].items()} == KEPT
    assert all(not state["model"][name][~mask].any() for state in found for name, mask in state["masks"].items())
    last = resumed(run_of(optimizer=optimizer), Static(), found[20])
    assert same(found[-1]["model"], last["model"]) and same(found[-1]["optimizer"], last["optimizer"])


def test_positions_are_drawn_uniformly():
    """Over 300 seeds each of the 113 free weights stays 17 times in 113: 45.1 times, 20 to 75; frozen ones always."""
    times = torch.zeros(20, 6)
    for seed in range(300):
        run = run_of(seed=seed)
        Static().start(run)
        times += run.masks["0.weight"]
    free = times[~STILL["0.weight"]]
    assert float(free.mean()) == pytest.approx(300 * 17 / 113)
    assert float(free.min()) >= 20 and float(free.max()) <= 75
    assert times[STILL["0.weight"]].tolist() == [300.0] * 7


def test_what_was_pruned_stays_pruned():
    """From masks of fewer zeros, positions are drawn among those that are left."""
    run = run_of(frozen=False)
    half = {name: torch.rand(run.weights()[name].shape) < 0.7 for name in KEPT}
    half["0.weight"] |= STILL["0.weight"]
    run.masks = MaskSet(half)
    Static().start(run)
    assert run.masks <= MaskSet(half)
    assert counts(run) == [24, 40]


@pytest.mark.parametrize("pattern", ["2:4", "1:4T", "block:4x1"])
def test_patterns(pattern):
    """RigL refuses a pattern by name; static draws none at random but takes the criterion's; through the engine as well."""
    chooser = Choosing(Pattern.parse(pattern))
    for sparsify in (chooser, engine("cpu").agreed(chooser)):
        with pytest.raises(BadRequest, match=f"rigl cannot hold the pattern {pattern}"):
            Rigl(initial="chosen").start(run_of(sparsify=sparsify))
        with pytest.raises(BadRequest, match=f"at random do not hold the pattern {pattern}.*initial=chosen"):
            Static().start(run_of(sparsify=sparsify))
        run = run_of(sparsify=sparsify)
        Static(initial="chosen").start(run)
        assert run.masks == choose(run_of().weights(), Fraction(0))


def test_unstructured_is_no_pattern():
    """A choice that says that it has none is taken."""
    run = run_of(sparsify=Choosing(Pattern()))
    Rigl().start(run)
    assert counts(run) == [24, 40]


def test_what_cannot_start():
    """No sparsity at all; a criterion that ranks by movement, when nothing has moved; a word that is none."""
    with pytest.raises(BadRequest, match="static has no sparsity"):
        Static().start(run_of(sparsify=None))
    with pytest.raises(BadRequest, match="none has moved yet"):
        Static().start(run_of(sparsify=Choosing(Pattern(), follows=("0.weight",))))
    with pytest.raises(BadRequest, match="'dense'"):
        Static(initial="dense")
    assert trained(run_of(total=3), Static(initial="chosen")).masks.kept == 64
