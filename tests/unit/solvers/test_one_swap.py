"""One-swap against the mask it starts from, and its options."""

from __future__ import annotations

import pytest
import torch

from sparsify_cli.contracts.solver import Keep
from sparsify_cli.errors import BadRequest, Infeasible
from sparsify_cli.maths.gram import damped, output_change
from sparsify_cli.recipes.pattern import Pattern
from sparsify_cli.solvers.one_swap import OneSwap

ANY, TWO_FOUR = Pattern(), Pattern.parse("2:4")


def problem(seed, outputs=16, columns=32):
    """A weight and the Gram matrix of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    inputs = torch.randn(4 * columns, columns, generator=generator, dtype=torch.float64) @ mix
    return torch.randn(outputs, columns, generator=generator, dtype=torch.float64), inputs.T @ inputs / len(inputs)


@pytest.mark.parametrize("mask", ["magnitude", "wanda", "wanda-row"])
@pytest.mark.parametrize(("pattern", "count"), [(ANY, 100), (ANY, 256), (TWO_FOUR, 256)])
def test_swaps_lower_the_error_they_look_at(mask, pattern, count):
    """Without refit, outputs change less than under the first mask; the kept weights are the same numbers."""
    for seed in range(3):
        weight, gram = problem(seed)
        hessian = damped(gram, 0.01)
        first, swapped = (OneSwap(mask=mask, swaps=n, refit=False).solve(weight, gram, Keep(count, pattern)) for n in (0, 40))
        assert output_change(weight - swapped[0], hessian) < 0.8 * output_change(weight - first[0], hessian)
        assert torch.equal(swapped[0], weight * swapped[1]) and int(swapped[1].sum()) == count


@pytest.mark.parametrize("seed", range(3))
def test_the_refit_and_the_layer_help(seed):
    """Least squares on the mask changes outputs less, and so do exchanges between rows on top of those inside."""
    weight, gram = problem(seed)
    weight[:4] *= 3
    keep = Keep(150, ANY)
    plain, refitted = (output_change(weight - OneSwap(refit=r).solve(weight, gram, keep)[0], gram) for r in (False, True))
    assert refitted < plain
    row, layer = (OneSwap(mask="wanda-row", scope=s, refit=False, swaps=1000).solve(weight, gram, keep)[0] for s in ("row", "layer"))
    hessian = damped(gram, 0.01)
    assert output_change(weight - layer, hessian) < output_change(weight - row, hessian)


def test_rows_keep_equal_shares():
    """From Wanda's mask by rows, every row has its share to within one weight before and after swaps."""
    weight, gram = problem(0)
    _, mask = OneSwap(mask="wanda-row").solve(weight, gram, Keep(150, ANY))
    assert set(mask.sum(1).tolist()) == {9, 10}


def test_useless_weights_are_not_taken_back():
    """Neither what was pruned before nor what sees an input that is never active is kept by a swap."""
    weight, gram = problem(1)
    gram[3], gram[:, 3] = 0, 0
    within = torch.ones_like(weight, dtype=torch.bool)
    within[:, :3] = False
    _, mask = OneSwap(scope="layer").solve(weight * within, gram, Keep(200, ANY, within))
    assert not mask[:, :4].any()


def test_what_it_cannot_do_is_said():
    """Blocks, and counts the pattern has no room for."""
    with pytest.raises(BadRequest, match="one-swap cannot hold block:4x1"):
        OneSwap().check(Pattern.parse("block:4x1"))
    weight, gram = problem(0)
    with pytest.raises(Infeasible, match="257 weights of a layer should stay, and 2:4 lets 256 stay"):
        OneSwap().solve(weight, gram, Keep(257, TWO_FOUR))
