"""Forward selection against grids, counting and explicit least squares."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.maths.forward_selection import Terms, Wanted, best_steps, fixed_step, line_search, pursuit


def terms(seed=0, n=24, dimensions=10):
    """Random terms that lean one way, and the terms themselves as rows."""
    generator = torch.Generator().manual_seed(seed)
    phi = torch.randn(n, dimensions, generator=generator, dtype=torch.float64) + 0.5
    target = phi.mean(0)
    return Terms(phi @ phi.T, phi @ target, float(target @ target)), phi, target


def test_the_error_is_the_distance():
    """D(a) is |F - sum a_i phi_i|^2."""
    known, phi, target = terms()
    a = torch.linspace(-1, 1, 24, dtype=torch.float64)
    assert known.error(a) == pytest.approx(float((target - a @ phi).square().sum()), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_step_is_that_of_a_grid(seed):
    """Closed form against 20,001 steps between the bounds, for every term: steps to 1e-4, errors never above the grid's."""
    known, phi, target = terms(seed)
    a = torch.rand(24, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    a[:8] = 0
    a /= a.sum()
    lowest = -a / (1 - a)
    steps, errors = best_steps(known, a, known.products @ a, lowest, torch.ones_like(a))
    for i in range(24):
        grid = torch.linspace(float(lowest[i]), 1, 20_001, dtype=torch.float64)[:, None]
        distances = (target - ((1 - grid) * (a @ phi) + grid * phi[i])).square().sum(1)
        best = int(distances.argmin())
        assert float(steps[i]) == pytest.approx(float(grid[best]), abs=1e-4)
        assert float(errors[i]) == pytest.approx(float(distances[best]), abs=1e-4) and float(errors[i]) <= float(distances[best]) + 1e-12


@pytest.mark.parametrize("away", [False, True])
@pytest.mark.parametrize("repeats", [False, True])
def test_line_search_stays_in_the_simplex(repeats, away):
    """Coefficients sum to 1 and none is negative, whatever the number wanted; the error falls as more are wanted."""
    known, _, _ = terms()
    found = [line_search(known, Wanted.of(known, count), repeats=repeats, away=away) for count in range(1, 9)]
    for count, one in enumerate(found, start=1):
        assert float(one.coefficients.sum()) == pytest.approx(1, abs=1e-12)
        assert float(one.coefficients.min()) >= 0 and len(one.order) <= count
        if not repeats and not away:
            assert len(set(one.picks)) == len(one.picks)
    errors = [known.error(one.coefficients) for one in found]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.2 * errors[0]


@pytest.mark.parametrize("repeats", [False, True])
def test_fixed_steps_leave_counts(repeats):
    """Coefficients are exactly how often each was taken over the number of steps, and each step is the best of all."""
    known, phi, target = terms()
    found = fixed_step(known, Wanted.of(known, 9), repeats=repeats)
    n = len(found.picks)
    assert found.coefficients.tolist() == [found.picks.count(i) / n for i in range(24)]
    assert len(found.order) == 9 and (repeats or n == 9)
    for step in range(n):
        before = phi[list(found.picks[:step])].sum(0)
        free = [i for i in range(24) if repeats or i not in found.picks[:step]]
        distances = {i: float((target - (before + phi[i]) / (step + 1)).square().sum()) for i in free}
        assert distances[found.picks[step]] == pytest.approx(min(distances.values()), abs=1e-12)


def test_away_steps_take_a_term_out():
    """F = (1, 1, 0) halves (2, 0, 0) and (0, 2, 0); (.6, .6, .3) is nearest alone and taken first. Only away steps leave it again."""
    phi = torch.tensor([[0.6, 0.6, 0.3], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [-5.0, -5.0, -5.0]], dtype=torch.float64)
    target = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    known = Terms(phi @ phi.T, phi @ target, 2.0)
    away, towards = (line_search(known, Wanted.of(known, 4), away=away) for away in (True, False))
    assert away.picks[0] == towards.picks[0] == 0
    assert away.order == [1, 2] and away.coefficients.tolist() == pytest.approx([0, 0.5, 0.5, 0], abs=1e-6)
    assert float(towards.coefficients[0]) > 0.05 and known.error(towards.coefficients) > 0.005


def test_pursuit_solves_least_squares():
    """On the terms it takes no other coefficients come closer, and the first is the most similar one."""
    known, phi, target = terms()
    found = pursuit(known, Wanted.of(known, 6))
    chosen = list(found.picks)
    exact = torch.linalg.lstsq(phi[chosen].T, target[:, None]).solution[:, 0]
    torch.testing.assert_close(found.coefficients[chosen], exact, rtol=0, atol=1e-9)
    assert len(set(chosen)) == 6 and int(found.coefficients.count_nonzero()) == 6
    assert chosen[0] == int(((phi @ target).abs() / phi.norm(dim=1)).argmax())


def test_dependent_terms_are_left_out():
    """Of two copies of one term and a zero, pursuit and line search take one; nothing is NaN."""
    phi = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    known = Terms(phi @ phi.T, phi @ phi[0], 1.0)
    for found in (pursuit(known, Wanted.of(known, 3)), line_search(known, Wanted.of(known, 3))):
        assert found.order == [0] and found.coefficients.tolist() == [1.0, 0.0, 0.0]
    assert sorted(fixed_step(known, Wanted.of(known, 3), repeats=False).order) == [0, 1]


@pytest.mark.parametrize("method", [line_search, fixed_step, pursuit])
def test_groups_and_sizes(method):
    """At most two of four consecutive terms, never one of size 0, until the sizes reach the total."""
    known, _, _ = terms()
    sizes = torch.full((24,), 3)
    sizes[:4] = torch.tensor([0, 5, 5, 0])
    taken = method(known, Wanted(sizes, 20, group=4, room=2)).coefficients != 0
    assert int(taken.view(-1, 4).sum(1).max()) <= 2 and not taken[0] and not taken[3]
    assert 20 <= int(sizes[taken].sum()) < 20 + 5


@pytest.mark.parametrize("method", [line_search, fixed_step, pursuit])
def test_none_wanted(method):
    """Nothing is taken."""
    known, _, _ = terms()
    found = method(known, Wanted.of(known, 0))
    assert found.picks == () and not found.coefficients.any()
