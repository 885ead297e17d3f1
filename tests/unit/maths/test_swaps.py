"""Exact swaps against recomputed losses and brute force."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from sparsify_cli.maths.swaps import Swaps, prices


def problem(seed, outputs=4, columns=8):
    """A weight, a Gram matrix of correlated inputs and a mask with half of every row."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(40, columns, generator=generator, dtype=torch.float64) @ torch.randn(
        columns, columns, generator=generator, dtype=torch.float64
    )
    weight = torch.randn(outputs, columns, generator=generator, dtype=torch.float64)
    order = torch.rand(outputs, columns, generator=generator).argsort(1)
    return weight, inputs.T @ inputs / 40, order < columns // 2


def loss(weight, gram, mask):
    """Mean squared change of each row's output when what is not in the mask is zeroed, from the definition."""
    lost = weight * ~mask
    return torch.stack([sum(row[i] * row[j] * gram[i, j] for i, j in product(range(len(row)), repeat=2)) for row in lost])


def changed(mask, *places):
    """The mask with some places turned over."""
    turned = mask.clone()
    for place in places:
        turned[place] = ~turned[place]
    return turned


def everything(weight, gram, **options):
    """A layer whose every weight may be kept."""
    return Swaps(weight, gram, torch.ones_like(weight, dtype=torch.bool), **options)


def pairs(mask, row, group):
    """Kept and pruned places of a row that may be exchanged."""
    columns = range(mask.shape[1])
    return [(p, q) for p, q in product(columns, columns) if mask[row, p] and not mask[row, q] and (group == 1 or p // group == q // group)]


@pytest.mark.parametrize("seed", range(3))
def test_prices_are_recomputed_differences(seed):
    """Pruning one kept weight, or keeping one pruned weight, changes the loss by exactly its price; others have none."""
    weight, gram, mask = problem(seed)
    drop, take = prices(weight, gram, mask, torch.ones_like(mask))
    before = loss(weight, gram, mask)
    for row, column in product(range(4), range(8)):
        found = (drop if mask[row, column] else take)[row, column]
        expected = loss(weight, gram, changed(mask, (row, column)))[row] - before[row]
        assert abs(float(found - expected)) <= 1e-9
    assert torch.equal(drop.isinf(), ~mask) and torch.equal(take.isinf(), mask)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_one_swap_is_the_best_of_all(seed, group):
    """The first swap of every row lowers its loss by as much as the best pair found by trying all of them."""
    weight, gram, mask = problem(seed)
    before, after = loss(weight, gram, mask), loss(weight, gram, everything(weight, gram, group=group).within_rows(mask, 1))
    for row in range(4):
        tried = [loss(weight, gram, changed(mask, (row, p), (row, q)))[row] for p, q in pairs(mask, row, group)]
        assert float(after[row]) == pytest.approx(min([float(before[row]), *map(float, tried)]), abs=1e-9)


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_end_is_a_local_optimum(seed, group):
    """Run to the end, no pair of any row lowers its loss, rows and groups keep their counts, and the loss has not grown."""
    weight, gram, mask = problem(seed)
    found = everything(weight, gram, group=group).within_rows(mask, 1000)
    after = loss(weight, gram, found)
    for row in range(4):
        for p, q in pairs(found, row, group):
            assert float(loss(weight, gram, changed(found, (row, p), (row, q)))[row] - after[row]) >= -1e-9
    width = 8 if group == 1 else group
    assert torch.equal(found.view(4, -1, width).sum(2), mask.view(4, -1, width).sum(2))
    assert bool((after <= loss(weight, gram, mask) + 1e-12).all())


@pytest.mark.parametrize("seed", range(5))
def test_trades_between_rows_end_where_no_pair_of_rows_improves(seed):
    """A round lowers the layer's loss at equal count; when a round changes nothing, no exchange between two rows lowers it."""
    weight, gram, mask = problem(seed, outputs=5)
    weight[0] *= 5
    layer = everything(weight, gram)
    for _ in range(100):
        traded = layer.between_rows(mask)
        if torch.equal(traded, mask):
            break
        assert float(loss(weight, gram, traded).sum()) < float(loss(weight, gram, mask).sum())
        assert int(traded.sum()) == int(mask.sum())
        mask = traded
    drop, take = prices(weight, gram, mask, torch.ones_like(mask))
    assert all(float(drop[r].min() + take[s].min()) >= -1e-9 for r, s in product(range(5), repeat=2) if r != s)


def test_a_swap_by_hand():
    """Two inputs that are one: of w = (3, -3, 1) with the last kept, the first two cancel, so nothing is swapped; of (3, 1, 2) the 3 is."""
    gram = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    mask = torch.tensor([[False, False, True]])
    weight = torch.tensor([[3.0, -3.0, 1.0]], dtype=torch.float64)
    assert torch.equal(everything(weight, gram).within_rows(mask, 10), mask)
    weight = torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.float64)
    assert everything(weight, gram).within_rows(mask, 10).tolist() == [[True, False, False]]


def test_what_may_not_be_kept_is_not():
    """A weight that is not takeable never enters, and with as many candidates as columns a shortlist changes nothing."""
    weight, gram, mask = problem(0)
    takeable = mask.clone()
    takeable[:, :4] = True
    assert not (Swaps(weight, gram, takeable).within_rows(mask, 100) & ~takeable).any()
    whole, short = (everything(weight, gram, candidates=k).within_rows(mask, 100) for k in (0, 8))
    assert torch.equal(whole, short)
