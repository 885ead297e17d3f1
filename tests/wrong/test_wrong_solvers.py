"""Known-wrong Gram matrices and solvers, rejected by the checks that accept ours."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.maths.gram import damped, gram_sum, inverse_factor, output_change
from sparsify_cli.maths.matrix_view import to_matrix
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.sparsegpt import SparseGPT


def ours(layer, inputs):
    """X X^T / n as calibration makes it."""
    total, rows = gram_sum(layer, inputs)
    return total / rows


def kernel_fastest(layer, inputs):
    """Columns as torch's unfold lays them: kernel positions fastest, channels slowest."""
    rows = functional.unfold(inputs, layer.kernel_size, padding=layer.padding, stride=layer.stride).movedim(1, -1).flatten(0, 1).double()
    return rows.T @ rows / len(rows)


def samples_for_rows(layer, inputs):
    """Divided by the number of samples, not of positions."""
    return gram_sum(layer, inputs)[0] / len(inputs)


def batches_counted_again(layer, inputs):
    """A running mean that adds the new rows to n twice."""
    mean, n = torch.zeros(1, dtype=torch.float64), 0
    for part in inputs.split(2):
        total, rows = gram_sum(layer, part)
        n += rows
        mean = mean * (n / (n + rows)) + total / (n + rows)
    return mean


def twice(layer, inputs):
    """2 X X^T / n, the Hessian of the squared error in other codes."""
    return 2 * ours(layer, inputs)


def without_padding(layer, inputs):
    """The border that padding adds is forgotten."""
    bare = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, stride=layer.stride)
    return ours(bare, inputs)


def low_precision(layer, inputs):
    """Summed in half precision, row after row."""
    total = torch.zeros(layer.weight[0].numel(), layer.weight[0].numel(), dtype=torch.bfloat16)
    sums = [gram_sum(layer, one[None]) for one in inputs]
    for part, _ in sums:
        total += part.bfloat16()
    return total.double() / sum(rows for _, rows in sums)


def check_gram(make):
    """Assert that trace(W G W^T) is the mean squared output over positions, for random weights of a padded, strided layer."""
    torch.manual_seed(0)
    inputs = torch.randn(6, 3, 7, 5, dtype=torch.float64) * torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64).view(1, 3, 1, 1)
    layer = nn.Conv2d(3, 4, (3, 2), padding=(1, 1), stride=(2, 1), bias=False).double()
    gram = make(layer, inputs)
    for _ in range(3):
        nn.init.normal_(layer.weight)
        mean = float(layer(inputs).detach().square().sum(1).mean())
        assert output_change(to_matrix(layer.weight.detach()), gram) == pytest.approx(mean, rel=1e-9)


def threshold(weight, gram, keep):
    """Prunes everything not above the value at the count, as published code does: ties fall together, one too many goes."""
    work, factor = weight.double(), inverse_factor(damped(gram, 0.01))
    scores = (work / factor.diagonal()).square()
    limit = scores.flatten().sort().values[scores.numel() - keep.count]
    mask = scores > limit
    return work * mask, mask


def removed_not_kept(weight, gram, keep):
    """N of N:M read as the number removed; 2:4 hides it, 1:4 does not."""
    pattern = Pattern(keep.pattern.group - keep.pattern.keep, keep.pattern.group) if keep.pattern.is_grouped else keep.pattern
    count = weight.numel() * pattern.keep // pattern.group if pattern.is_grouped else keep.count
    return SparseGPT().solve(weight, gram, Keep(count, pattern))


def no_repair(weight, gram, keep):
    """The mask without the repair."""
    _, mask = SparseGPT().solve(weight, gram, keep)
    return weight.double() * mask, mask


def repair_of_the_pruned(weight, gram, keep):
    """Repairs the wrong way round: what was lost is subtracted once more."""
    repaired, mask = SparseGPT().solve(weight, gram, keep)
    return (2 * weight.double() - repaired).masked_fill(~mask, 0), mask


def not_zeroed(weight, gram, keep):
    """Pruned weights are masked in the count and left in the tensor."""
    repaired, mask = SparseGPT().solve(weight, gram, keep)
    return torch.where(mask, repaired, weight.double()), mask


def magnitudes_of_the_inverse(weight, gram, keep):
    """The diagonal of H in the place of that of its inverse factor: correlations are ignored in the choice and the repair."""
    return SparseGPT().solve(weight, torch.diag(gram.diagonal()), keep)


def check_solver(solve):
    """Assert exact counts and groups under ties, real zeros, and outputs within twice the change of the best weights on the mask."""
    torch.manual_seed(0)
    mixed = torch.randn(200, 8, dtype=torch.float64) @ torch.randn(8, 8, dtype=torch.float64)
    gram = mixed.T @ mixed / 200
    requests = [(torch.randn(4, 8), gram, Keep(16, Pattern())), (torch.randn(4, 8), gram, Keep(8, Pattern.parse("1:4")))]
    requests.append((torch.full((4, 8), 0.5), torch.eye(8, dtype=torch.float64), Keep(11, Pattern())))
    for weight, seen, keep in requests:
        repaired, mask = solve(weight, seen, keep)
        assert int(mask.sum()) == keep.count
        assert int(mask.reshape(-1, keep.pattern.group).sum(1).max()) <= keep.pattern.keep
        assert not repaired[~mask].any()
        best = torch.zeros_like(repaired)
        for row, kept in enumerate(mask):
            best[row, kept] = torch.linalg.solve(seen[kept][:, kept], seen[kept] @ weight[row].double())
        assert output_change(weight - repaired, seen) <= 2 * output_change(weight - best, seen)


def right_solver(weight, gram, keep):
    """Ours."""
    return SparseGPT().solve(weight, gram, keep)


def test_right_ones_pass():
    """Our Gram matrix and our solver pass."""
    check_gram(ours)
    check_solver(right_solver)


@pytest.mark.parametrize(
    "make",
    [kernel_fastest, samples_for_rows, batches_counted_again, twice, without_padding, low_precision],
    ids=lambda f: f.__name__,
)
def test_wrong_grams_are_rejected(make):
    """Each known-wrong Gram matrix fails the same check."""
    with pytest.raises(AssertionError):
        check_gram(make)


@pytest.mark.parametrize(
    "solve",
    [threshold, removed_not_kept, no_repair, repair_of_the_pruned, not_zeroed, magnitudes_of_the_inverse],
    ids=lambda f: f.__name__,
)
def test_wrong_solvers_are_rejected(solve):
    """Each known-wrong solver fails the same check."""
    with pytest.raises(AssertionError):
        check_solver(solve)
