"""Greedy: whole channels, exact counts, coefficients in the weights, and the refit."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.maths.channel_terms import by_channel, channel_terms
from sparsify_cli.maths.forward_selection import Wanted, fixed_step, line_search, pursuit
from sparsify_cli.maths.gram import output_change
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.greedy import Greedy

ANY = Pattern()
STEPS = pytest.mark.parametrize("step", ["line", "fixed", "refit"])


def problem(seed=0, outputs=4, columns=36):
    """A layer of 4 outputs, and inputs that lie about positive means."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(200, columns, generator=generator, dtype=torch.float64) + 0.5
    return torch.randn(outputs, columns, generator=generator, dtype=torch.float64), inputs.T @ inputs / 200


@STEPS
@pytest.mark.parametrize("refit", [False, True])
def test_whole_channels_stay(step, refit):
    """With 9 positions and 4 channels, 72 of 144 weights are two channels whole; 80 are two and the 8 largest of a third."""
    weight, gram = problem()
    solver = Greedy(step=step, refit=refit, positions=9)
    mask = solver.solve(weight, gram, Keep(72, ANY))[1].view(4, 9, 4).flatten(0, 1)
    assert sorted(mask.sum(0).tolist()) == [0, 0, 36, 36]
    more = solver.solve(weight, gram, Keep(80, ANY))[1].view(4, 9, 4).flatten(0, 1)
    assert sorted(more.sum(0).tolist()) == [0, 8, 36, 36] and not (mask & ~more).any()
    third = more.sum(0).tolist().index(8)
    sizes = weight.view(4, 9, 4).flatten(0, 1)[:, third].abs()
    assert float(sizes[more[:, third]].min()) > float(sizes[~more[:, third]].max())


@pytest.mark.parametrize(("step", "method"), [("line", line_search), ("fixed", fixed_step), ("refit", pursuit)])
def test_coefficients_scale_the_weights(step, method):
    """Without refit the weights of channel i are a_i N times what they were, and the change of the outputs is D(a)."""
    weight, gram = problem()
    terms = channel_terms(weight, gram)
    found = method(terms, Wanted.of(terms, 10))
    repaired, mask = Greedy(step=step, refit=False).solve(weight, gram, Keep(40, ANY))
    assert set(mask.any(0).nonzero().flatten().tolist()) == set(found.order)
    torch.testing.assert_close(repaired, weight * by_channel(found.coefficients) * 36, rtol=0, atol=1e-12)
    assert output_change(weight - repaired, gram) == pytest.approx(terms.error(found.coefficients), abs=1e-9)


@STEPS
def test_the_refit_is_better_than_coefficients(step):
    """On the same channels, least squares changes the outputs less than any coefficients do."""
    weight, gram = problem()
    scaled, set_anew = (Greedy(step=step, refit=refit, damping=0.0).solve(weight, gram, Keep(60, ANY)) for refit in (False, True))
    assert torch.equal(scaled[1], set_anew[1])
    assert output_change(weight - set_anew[0], gram) < output_change(weight - scaled[0], gram)


@STEPS
@pytest.mark.parametrize("refit", [False, True])
def test_n_of_m_keeps_channels_for_all_outputs(step, refit):
    """2:4 keeps the same two of four consecutive channels in every row."""
    weight, gram = problem(columns=32)
    _, mask = Greedy(step=step, refit=refit).solve(weight, gram, Keep(64, Pattern.parse("2:4")))
    assert bool((mask == mask[0]).all()) and mask[0].view(-1, 4).sum(1).tolist() == [2] * 8


@STEPS
def test_positions_that_do_not_divide_the_columns_are_one(step):
    """A linear layer of 36 inputs beside 7x7 convolutions: columns stay or go on their own."""
    weight, gram = problem()
    alone, odd = (Greedy(step=step, positions=positions).solve(weight, gram, Keep(48, ANY)) for positions in (1, 49))
    assert torch.equal(alone[0], odd[0]) and torch.equal(alone[1], odd[1])


@STEPS
def test_dead_inputs_of_a_channel_go_first(step):
    """Of the weights of a chosen channel those at a position that is never active are not kept while others can be had."""
    weight, gram = problem()
    gram[:4], gram[:, :4] = 0, 0
    _, mask = Greedy(step=step, positions=9).solve(weight, gram, Keep(64, ANY))
    assert not mask[:, :4].any()
    assert sorted(mask.view(4, 9, 4).sum((0, 1)).tolist()) == [0, 0, 32, 32]
