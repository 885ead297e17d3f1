"""DSnoT: its stand-in for the mean, one cycle by hand, and what cycles do to the mean error."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.maths.gram import output_change
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.dsnot import DSnoT, leading

ANY, TWO_FOUR = Pattern(), Pattern.parse("2:4")


def problem(seed, spread=0.3, outputs=16, columns=32):
    """A weight, and inputs that lie about positive means, as behind a ReLU."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(columns, generator=generator, dtype=torch.float64) + 0.2
    inputs = mean + spread * torch.randn(400, columns, generator=generator, dtype=torch.float64)
    return torch.randn(outputs, columns, generator=generator, dtype=torch.float64), inputs


def test_the_leading_part_is_the_mean():
    """Exactly when inputs never vary, whatever the sign; nearly when they vary little."""
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    found = leading(torch.outer(mean, mean))
    torch.testing.assert_close(found * found[0].sign(), mean, rtol=0, atol=1e-12)
    _, inputs = problem(0, spread=0.1)
    found = leading(inputs.T @ inputs / len(inputs))
    torch.testing.assert_close(found * found[0].sign(), inputs.mean(0), rtol=0.02, atol=0.02)


def test_one_cycle_by_hand():
    """Means 1: of w = (5, -2, 1, 3, -4) Wanda keeps 5 and -4. The error 1 + 3 - 2 = 2 is positive, 3 explains it best; -4 alone can go."""
    weight = torch.tensor([[5.0, -2.0, 1.0, 3.0, -4.0]], dtype=torch.float64)
    gram = torch.ones(5, 5, dtype=torch.float64) + 0.01 * torch.eye(5, dtype=torch.float64)
    before, after = (DSnoT(cycles=n, refit=False, enough=0.0).solve(weight, gram, Keep(2, ANY)) for n in (0, 1))
    assert before[1].tolist() == [[True, False, False, False, True]]
    assert after[1].tolist() == [[True, False, False, True, False]]
    assert after[0].tolist() == [[5.0, 0.0, 0.0, 3.0, 0.0]]


@pytest.mark.parametrize(("pattern", "count"), [(ANY, 160), (ANY, 256), (TWO_FOUR, 256)])
@pytest.mark.parametrize("seed", range(3))
def test_cycles_lower_the_mean_error(seed, pattern, count):
    """Averaged over rows, the outputs' mean moves less than under Wanda's mask; counts and patterns hold, rows keep theirs."""
    weight, inputs = problem(seed)
    gram = inputs.T @ inputs / len(inputs)
    first, moved = (DSnoT(cycles=n, refit=False).solve(weight, gram, Keep(count, pattern)) for n in (0, 50))
    before, after = (float(((weight - found) @ inputs.mean(0)).abs().mean()) for found, _ in (first, moved))
    assert after < 0.6 * before
    assert torch.equal(first[1].sum(1), moved[1].sum(1))
    assert int(moved[1].view(16, -1, pattern.group).sum(2).max()) <= pattern.keep


def test_a_small_error_is_left_alone():
    """With a bar no error exceeds, Wanda's mask stays."""
    weight, inputs = problem(0)
    gram = inputs.T @ inputs / len(inputs)
    first, same = (DSnoT(cycles=50, enough=e).solve(weight, gram, Keep(200, ANY))[1] for e in (1e9, 1e6))
    assert torch.equal(first, DSnoT(cycles=0).solve(weight, gram, Keep(200, ANY))[1]) and torch.equal(first, same)


def test_the_refit_helps_and_useless_weights_stay_out():
    """Least squares changes outputs less than the weights as they were; dead inputs and what was pruned before are not regrown."""
    weight, inputs = problem(0)
    inputs[:, 5] = 0
    gram, within = inputs.T @ inputs / len(inputs), torch.ones_like(weight, dtype=torch.bool)
    within[:, 0] = False
    keep = Keep(200, ANY, within)
    plain, refitted = (DSnoT(refit=refit).solve(weight * within, gram, keep) for refit in (False, True))
    assert output_change(weight * within - refitted[0], gram) < output_change(weight * within - plain[0], gram)
    assert not plain[1][:, [0, 5]].any()
