"""ASP: masks are chosen once, before the first step, and the network is trained again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparsify_cli.criteria.movement import Movement
from sparsify_cli.errors import BadRequest
from sparsify_cli.regimes.asp import Asp
from sparsify_cli.regimes.fixed import Fixed
from tests.ends_alike import assert_ends_alike
from tests.two_gradients import run_of, same, states, trained


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_it_is_training_with_the_masks_of_the_first_weights(optimizer):
    """Every state is that of ordinary training which is given the masks of the incoming weights, optimizer included."""
    fixed = run_of(optimizer=optimizer)
    fixed.masks = fixed.sparsify(fixed.weights(), fixed.target)
    assert fixed.masks.kept == 40
    assert same(states(run_of(optimizer=optimizer), Asp()), states(fixed, Fixed()))


def test_masks_are_there_before_the_first_step_and_never_change():
    """They are told once, and are the same after every step."""
    seen = []
    run = run_of()
    expected = run.sparsify(run.weights(), run.target)
    trained(run, Asp(), after=lambda run, _: seen.append(run.masks == expected))
    assert seen == [True] * 12
    assert [(event["event"], event["step"], event["sparsity"]) for event in run.events] == [("pruned", 0, 0.8)]


def test_what_was_pruned_stays_pruned():
    """The masks lie inside those of the checkpoint, and reach the target."""
    run = trained(run_of(pruned="0.5"), Asp())
    assert run.masks <= run_of(pruned="0.5").masks and run.masks.kept == 40


def test_frozen_weights_are_neither_moved_nor_masked():
    """Weights of an embedded network keep their bits."""
    run = trained(run_of(frozen=True), Asp())
    still, values = run.frozen["4.weight"]
    assert torch.equal(run.weights()["4.weight"][still], values)
    assert bool(run.masks["4.weight"][still].all())


def test_a_killed_run_goes_on_bit_for_bit():
    """From the state after any step the end is the same."""
    assert_ends_alike(lambda: run_of(frozen=True), Asp())


def test_movement_is_refused():
    """A criterion that ranks how weights moved knows nothing before the first step; neither does a run without a target."""
    run = run_of()
    run.sparsify = replace(run.sparsify, criterion=Movement())
    with pytest.raises(BadRequest, match="asp ranks weights as they are"):
        Asp().start(run)
    run.sparsify = None
    with pytest.raises(BadRequest, match="no target"):
        Asp().start(run)
