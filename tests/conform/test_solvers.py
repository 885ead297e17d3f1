"""Every solver of layers on the shelf keeps the promises of its contract; a new file is found by itself."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.solver import Keep, LayerSolver
from sparsify_cli.errors import BadRequest
from sparsify_cli.maths.gram import output_change
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.shelf import Shelf

EACH = pytest.mark.parametrize("name", [name for name in Shelf("solvers").names() if issubclass(Shelf("solvers").load(name), LayerSolver)])
PATTERNS = {"unstructured": [0, 1, 37, 95, 96], "2:4": [0, 1, 30, 48], "1:4": [0, 13, 24], "5:8": [7, 60]}
REQUESTS = pytest.mark.parametrize(("pattern", "count"), [(p, count) for p, counts in PATTERNS.items() for count in counts])


def problem(dtype=torch.float32, fill=None):
    """A layer of 6 outputs and 16 inputs, one of them never active, seen by 40 rows."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(40, 16, generator=generator, dtype=torch.float64) @ torch.randn(16, 16, generator=generator, dtype=torch.float64)
    rows[:, 3] = 0
    weight = torch.randn(6, 16, generator=generator)
    return (weight if fill is None else torch.full_like(weight, fill)).to(dtype), rows.T @ rows / 40


def solved(name, keep, **kind):
    """A problem and its solution with default options."""
    weight, gram = problem(**kind)
    return weight, gram, *Shelf("solvers").load(name)().solve(weight, gram, keep)


@EACH
@REQUESTS
@pytest.mark.parametrize("fill", [None, 0.0, 0.25], ids=["random", "zeros", "equal"])
def test_count_and_pattern_hold_together(name, pattern, count, fill):
    """Exactly `count` weights stay, no group holds more than N, and what is pruned is zero: ties and zeros do not matter."""
    _, _, repaired, mask = solved(name, Keep(count, Pattern.parse(pattern)), fill=fill)
    asked = Pattern.parse(pattern)
    assert (mask.dtype, mask.shape, repaired.shape) == (torch.bool, (6, 16), (6, 16))
    assert int(mask.sum()) == count
    assert int(mask.reshape(-1, asked.group).sum(1).max()) <= asked.keep
    assert not repaired[~mask].any()


@EACH
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_any_dtype(name, dtype):
    """Weights of any precision are solved in float64, and the result is finite."""
    _, _, repaired, mask = solved(name, Keep(40, Pattern()), dtype=dtype)
    assert repaired.dtype == torch.float64
    assert bool(repaired.isfinite().all()) and int(mask.sum()) == 40


@EACH
def test_arguments_are_left_alone(name):
    """Weight, Gram matrix and support are not written to; the result carries no gradient and does not alias the weight."""
    weight, gram = problem(dtype=torch.float64)
    parameter, within = torch.nn.Parameter(weight.clone()), torch.ones_like(weight, dtype=torch.bool)
    given = gram.clone()
    repaired, mask = Shelf("solvers").load(name)().solve(parameter, given, Keep(96, Pattern(), within))
    assert not repaired.requires_grad
    repaired.fill_(7), mask.fill_(False)
    assert torch.equal(parameter.data, weight) and torch.equal(given, gram) and bool(within.all())


@EACH
def test_the_same_request_gives_the_same_answer(name):
    """Whatever torch's global generator holds."""
    torch.manual_seed(1)
    first = solved(name, Keep(30, Pattern()))
    torch.manual_seed(2)
    second = solved(name, Keep(30, Pattern()))
    assert torch.equal(first[2], second[2]) and torch.equal(first[3], second[3])


@EACH
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_a_ladder_is_its_steps(name, pattern):
    """Several counts at once give what each gives alone."""
    weight, gram = problem()
    solver, keep, counts = Shelf("solvers").load(name)(), Keep(0, Pattern.parse(pattern)), [48, 0, 11, 30]
    for count, (repaired, mask) in zip(counts, solver.ladder(weight, gram, keep, counts), strict=True):
        alone = solver.solve(weight, gram, Keep(count, keep.pattern))
        assert int(mask.sum()) == count and torch.equal(mask, alone[1])
        torch.testing.assert_close(repaired, alone[0], rtol=0, atol=1e-9)


@EACH
def test_what_was_pruned_stays_pruned(name):
    """Weights outside the support come back only where more are asked for than it has."""
    weight, gram = problem()
    within = weight > 0
    solver, there = Shelf("solvers").load(name)(), int(within.sum())
    less, more = (solver.solve(weight * within, gram, Keep(count, Pattern(), within))[1] for count in (there - 12, there + 2))
    assert not (less & ~within).any() and int(less.sum()) == there - 12
    assert int(more.sum()) == there + 2


@EACH
def test_weights_at_dead_inputs_go_first(name):
    """An input that is never active keeps no weight while others can be had, however large."""
    weight, gram = problem()
    weight[:, 3] = 100
    assert not Shelf("solvers").load(name)().solve(weight, gram, Keep(90, Pattern()))[1][:, 3].any()


@EACH
def test_nothing_to_prune_changes_nothing(name):
    """When every weight stays, the weights are the same numbers."""
    weight, _, repaired, mask = solved(name, Keep(96, Pattern()))
    assert bool(mask.all())
    assert torch.equal(repaired, weight.double())


@EACH
def test_the_unit_of_inputs_does_not_matter(name):
    """Inputs a thousand times larger give the same mask and weights: damping is relative."""
    weight, gram = problem()
    solver = Shelf("solvers").load(name)()
    small, large = solver.solve(weight, gram, Keep(40, Pattern())), solver.solve(weight, gram * 2**20, Keep(40, Pattern()))
    assert torch.equal(small[1], large[1])
    torch.testing.assert_close(small[0], large[0], rtol=1e-9, atol=1e-9)


@EACH
@pytest.mark.parametrize("pattern", ["unstructured", "2:4"])
def test_repair_repairs(name, pattern):
    """Outputs change less than when the same weights are zeroed and the others left as they are."""
    weight, gram, repaired, mask = solved(name, Keep(48, Pattern.parse(pattern)))
    assert output_change(weight - repaired, gram) < output_change(weight.double() * ~mask, gram)


@EACH
def test_patterns_are_taken_or_refused(name):
    """A pattern a solver cannot hold is refused by name before anything is computed; unstructured is always taken."""
    solver = Shelf("solvers").load(name)()
    assert solver.check(Pattern()) is None
    try:
        solver.check(Pattern.parse("block:2x2"))
    except BadRequest as refused:
        assert name in str(refused) and "block:2x2" in str(refused)
    else:
        _, _, _, mask = solved(name, Keep(48, Pattern.parse("block:2x2")))
        assert set(mask.reshape(3, 2, 8, 2).sum((1, 3)).flatten().tolist()) <= {0, 4}


@EACH
def test_both_ways_is_held_or_refused(name):
    """N:M along outputs too: half of a square layer stays, two of four in rows and in columns, or the solver says it cannot."""
    solver, pattern = Shelf("solvers").load(name)(), Pattern.parse("2:4T")
    weight, gram = problem()
    square = torch.cat([weight, weight.flip(0)])[:8]
    try:
        solver.check(pattern)
    except BadRequest as refused:
        assert name in str(refused) and "2:4T" in str(refused)
    else:
        repaired, mask = solver.solve(square, gram, Keep(64, pattern))
        assert mask.view(8, 4, 4).sum(2).eq(2).all() and mask.view(2, 4, 16).sum(1).eq(2).all()
        assert not repaired[~mask].any()
