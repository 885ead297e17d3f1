"""ALPS against brute force, a plain transcription of the algorithm, least squares and magnitude."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.errors import Anomalous, BadRequest, Infeasible
from sparsify_cli.maths.gram import damped, output_change
from sparsify_cli.maths.keep import top_k
from sparsify_cli.maths.refit import refit
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.alps import ALPS
from tests.oracles import every_mask

ANY, TWO_FOUR, ONE_FOUR = Pattern(), Pattern.parse("2:4"), Pattern.parse("1:4")


def problem(seed, outputs, columns, rows=0):
    """A weight and the Gram matrix of correlated inputs of very different sizes."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64) * torch.logspace(0, 1, columns, dtype=torch.float64)
    inputs = torch.randn(rows or 4 * columns, columns, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(outputs, columns, generator=generator, dtype=torch.float64), inputs.T @ inputs / len(inputs)


def projected(values, count, pattern):
    """All but the `count` largest (or the N largest of each group) set to zero."""
    if pattern.is_grouped:
        groups = values.reshape(-1, pattern.group)
        limit = groups.abs().sort(dim=1, descending=True).values[:, pattern.keep - 1 : pattern.keep]
        return (groups * (groups.abs() >= limit)).reshape(values.shape)
    return values * (values.abs() >= values.abs().flatten().sort(descending=True).values[count - 1])


def transcribed(weight, gram, count, pattern, damping=0.01):
    """The published algorithm as it is written, with B, D and V and explicit inverses; returns the first mask and the last."""
    columns = weight.shape[1]
    hessian = gram + damping * sum(gram[j, j] for j in range(columns)) / columns * torch.eye(columns, dtype=gram.dtype)
    size = hessian.diagonal().sqrt()
    scaled, matrix = weight * size, hessian / torch.outer(size, size)
    target, rho, grown = scaled @ matrix, 0.1, False
    kept, multiplier = projected(scaled, count, pattern), torch.zeros_like(scaled)
    first = seen = kept != 0
    for step in range(300):
        fitted = (target - multiplier + rho * kept) @ torch.linalg.inv(matrix + rho * torch.eye(columns, dtype=gram.dtype))
        kept = projected(fitted + multiplier / rho, count, pattern)
        multiplier = multiplier + rho * (fitted - kept)
        if (step + 1) % 3:
            continue
        changed = int(((kept != 0) != seen).sum())
        if changed / count <= 0.005 and not grown:
            rho, kept, multiplier = rho / 5, projected(scaled, count, pattern), torch.zeros_like(scaled)
        elif changed == 0 or (step >= 29 and changed / count < 0.0003):
            break
        else:
            rho, grown = rho * (1.3 if changed / count > 0.1 else 1.2 if changed / count > 0.005 else 1.1), True
        seen = kept != 0
    return first, kept != 0


@pytest.mark.parametrize("shape", [(6, 12), (20, 12), (3, 16)])
@pytest.mark.parametrize(("pattern", "share"), [(ANY, 0.5), (ANY, 0.2), (TWO_FOUR, 0.5), (ONE_FOUR, 0.25)])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_algorithm_as_written(seed, pattern, share, shape):
    """One state in the place of B, D and V, the inverse formed or not: the same mask, or the first where better."""
    weight, gram = problem(seed, *shape)
    count = round(share * weight.numel())
    repaired, mask = ALPS(precision="float64").solve(weight, gram, Keep(count, pattern))
    hessian = damped(gram, 0.01)
    first, last = transcribed(weight, gram, count, pattern)
    errors = [output_change(weight - refit(weight, hessian, each), hessian) for each in (last, first)]
    assert torch.equal(mask, last if errors[0] <= errors[1] else first)
    torch.testing.assert_close(repaired, refit(weight, hessian, mask), rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_better_than_least_squares_on_magnitude(seed, share):
    """With as many weights, outputs change less than with the largest (scaled by their inputs) and the same refit."""
    weight, gram = problem(seed, 24, 48)
    keep = Keep(round(share * weight.numel()), ANY)
    hessian = damped(gram, 0.01)
    largest = top_k((weight * hessian.diagonal().sqrt()).abs().flatten(), keep.count).view_as(weight)
    found = output_change(weight - ALPS().solve(weight, gram, keep)[0], hessian)
    assert found < output_change(weight - refit(weight, hessian, largest), hessian)


def test_near_the_best_of_all_masks():
    """One row, 4 of 8: over 20 rows never below the best of all 70 masks with least squares, the median within 10 % of it."""
    ratios = []
    for seed in range(20):
        weight, gram = problem(seed, 1, 8)
        found = output_change(weight - ALPS(damping=0.0).solve(weight, gram, Keep(4, ANY))[0], gram)
        ratios.append(found / min(output_change(weight - refit(weight, gram, mask[None]), gram) for mask in every_mask(8, 4)))
    assert min(ratios) >= 1 - 1e-9
    assert sorted(ratios)[10] <= 1.1


@pytest.mark.parametrize("pattern", [ANY, TWO_FOUR])
def test_float32_finds_masks_as_good(pattern):
    """The iteration in float32 leaves errors within 1 % of those in float64."""
    weight, gram = problem(0, 24, 64)
    keep = Keep(weight.numel() // 2, pattern)
    single, double = (output_change(weight - ALPS(precision=p).solve(weight, gram, keep)[0], gram) for p in ("float32", "float64"))
    assert single == pytest.approx(double, rel=0.01)


def test_conjugate_gradients_end_where_factors_do():
    """The same mask, and weights that differ by the tolerance."""
    weight, gram = problem(0, 8, 24)
    keep = Keep(90, ANY)
    exact, iterated = ALPS(refit="exact").solve(weight, gram, keep), ALPS(refit="cg", tolerance=1e-10).solve(weight, gram, keep)
    assert torch.equal(exact[1], iterated[1])
    torch.testing.assert_close(exact[0], iterated[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 20, 39])
def test_unrelated_inputs_of_equal_size_give_magnitude(count):
    """With the identity as Gram matrix nothing can be repaired: the largest weights stay, bit for bit, and it ends."""
    weight = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    repaired, mask = ALPS().solve(weight, torch.eye(8, dtype=torch.float64), Keep(count, ANY))
    assert torch.equal(mask, top_k(weight.abs().flatten(), count).view_as(weight))
    assert torch.equal(repaired, weight.double() * mask)


def test_one_decomposition_serves_a_ladder(monkeypatch):
    """Four counts, one eigendecomposition; counts of none and all need none."""
    calls, original = [], torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: calls.append(1) or original(matrix))
    weight, gram = problem(0, 4, 8)
    assert [int(mask.sum()) for _, mask in ALPS().ladder(weight, gram, Keep(0, ANY), [5, 10, 20, 30])] == [5, 10, 20, 30]
    assert len(calls) == 1
    ALPS().ladder(weight, gram, Keep(0, ANY), [0, 32])
    assert len(calls) == 1


def test_few_rows_and_large_numbers():
    """Fewer rows than inputs, and weights of 1e30 or 1e-30, give finite weights and the count; dependent inputs need damping."""
    weight, gram = problem(0, 4, 8, rows=3)
    for size in (1.0, 1e30, 1e-30):
        repaired, mask = ALPS().solve(weight * size, gram, Keep(16, ANY))
        assert bool(repaired.isfinite().all()) and int(mask.sum()) == 16
        torch.testing.assert_close(repaired / size, ALPS().solve(weight, gram, Keep(16, ANY))[0], rtol=1e-6, atol=1e-6)
    with pytest.raises(Anomalous, match="Raise the solver's damping"):
        ALPS(damping=0.0).solve(weight, gram, Keep(30, ANY))


def test_inputs_that_are_never_active():
    """A layer that sees nothing keeps its largest weights; NaN is refused."""
    weight = torch.tensor([[1.0, -4.0], [3.0, 2.0]])
    repaired, mask = ALPS().solve(weight, torch.zeros(2, 2, dtype=torch.float64), Keep(2, ANY))
    assert mask.tolist() == [[False, True], [True, False]] and repaired.tolist() == [[0.0, -4.0], [3.0, 0.0]]
    with pytest.raises(Anomalous, match="holds NaN or infinity"):
        ALPS().solve(weight, torch.full((2, 2), torch.nan, dtype=torch.float64), Keep(2, ANY))


def test_what_it_cannot_do_is_said():
    """Blocks of weights are refused with a sentence, and so is a count the pattern has no room for."""
    with pytest.raises(BadRequest, match="alps cannot hold block:4x1"):
        ALPS().check(Pattern.parse("block:4x1"))
    weight, gram = problem(0, 2, 8)
    with pytest.raises(Infeasible, match="9 weights of a layer should stay, and 2:4 lets 8 stay"):
        ALPS().solve(weight, gram, Keep(9, TWO_FOUR))
