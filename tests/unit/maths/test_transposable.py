"""Transposable masks against brute force."""

from __future__ import annotations

from itertools import combinations, permutations, product

import pytest
import torch

from sparsify_cli.errors import BadRequest, NonFinite
from sparsify_cli.maths.transposable import all_masks, transposable


def numbers(seed, rows, columns):
    """Normal scores in float64."""
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def best_by_hand(block, keep):
    """The highest sum over all masks with `keep` of each row and column, row after row."""
    size = len(block)
    best = {(0,) * size: 0.0}
    for row in block.tolist():
        reached = {}
        for (used, value), kept in product(best.items(), combinations(range(size), keep)):
            counts = tuple(n + (i in kept) for i, n in enumerate(used))
            if max(counts) <= keep:
                reached[counts] = max(reached.get(counts, -1e300), value + sum(row[i] for i in kept))
        best = reached
    return best[(keep,) * size]


@pytest.mark.parametrize(("keep", "group", "count"), [(2, 4, 90), (1, 4, 24), (3, 4, 24), (1, 2, 2), (1, 3, 6)])
def test_all_masks_are_counted(keep, group, count):
    """The masks of a block are as many as the tables say: 90 for 2:4, M! for 1:M, each once and with N of every row and column."""
    masks = all_masks(keep, group).view(-1, group, group)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == len(masks) == count
    assert bool((masks.sum(1) == keep).all()) and bool((masks.sum(2) == keep).all())


@pytest.mark.parametrize(("keep", "group"), [(2, 4), (1, 4), (1, 2), (2, 8), (3, 5), (3, 6), (1, 6)])
@pytest.mark.parametrize("seed", range(3))
def test_every_block_is_the_best_there_is(keep, group, seed):
    """Each block retains exactly what dynamic programming over all masks finds, and holds N of every row and column."""
    scores = numbers(seed, 2 * group, 3 * group)
    mask = transposable(scores, keep, group)
    for top, left in product(range(0, 2 * group, group), range(0, 3 * group, group)):
        block, kept = (m[top : top + group, left : left + group] for m in (scores, mask))
        assert (kept.sum(0) == keep).all() and (kept.sum(1) == keep).all()
        assert float(block[kept].sum()) == pytest.approx(best_by_hand(block, keep), abs=1e-10)


@pytest.mark.parametrize(("keep", "group"), [(2, 4), (4, 8), (8, 16)])
def test_a_planted_mask_is_found_behind_uneven_rows_and_columns(keep, group):
    """With scores u_i + v_j, which all masks retain alike, plus 0.1 on a mask, the mask is the only best one."""
    order = torch.randperm(group, generator=torch.Generator().manual_seed(4))
    planted = ((torch.arange(group)[order] - torch.arange(group)[:, None]) % group) < keep
    scores = numbers(5, group, 1) + numbers(6, 1, group) + 0.1 * planted
    assert torch.equal(transposable(scores, keep, group), planted)


def test_one_of_m_is_the_best_assignment():
    """1:5 retains what the best of all 120 assignments of rows to columns does."""
    scores = numbers(9, 5, 5)
    best = max(sum(float(scores[i, j]) for i, j in enumerate(order)) for order in permutations(range(5)))
    assert float(scores[transposable(scores, 1, 5)].sum()) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("group", [4, 8])
def test_the_transposed_matrix_has_the_transposed_mask(group):
    """With distinct scores the mask of W^T is the mask of W, transposed."""
    scores = numbers(1, 2 * group, group)
    assert torch.equal(transposable(scores.T, group // 2, group), transposable(scores, group // 2, group).T)


@pytest.mark.parametrize("scores", [torch.zeros(8, 8), torch.ones(8, 8), torch.full((8, 8), torch.inf), torch.full((8, 8), -torch.inf)])
@pytest.mark.parametrize(("keep", "group"), [(2, 4), (3, 8)])
def test_equal_scores_still_have_exact_counts(scores, keep, group):
    """Zero, equal and infinite scores give a mask with N of every row and column of each block."""
    mask = transposable(scores, keep, group).unflatten(0, (-1, group)).unflatten(2, (-1, group))
    assert (mask.sum(1) == keep).all() and (mask.sum(3) == keep).all()


@pytest.mark.parametrize("group", [4, 8])
def test_infinite_scores_are_kept_and_the_rest_is_ranked(group):
    """A weight of infinite score stays, one of minus infinity goes, and the scale of the others plays no part."""
    scores = numbers(2, group, group)
    scores[0, 0], scores[1, 1] = torch.inf, -torch.inf
    mask = transposable(scores, group // 2, group)
    assert mask[0, 0] and not mask[1, 1]
    assert torch.equal(mask, transposable(scores * 1e-200, group // 2, group))


@pytest.mark.parametrize(("shape", "keep", "group"), [((6, 8), 2, 4), ((8, 6), 2, 4), ((8, 8), 4, 4), ((8, 8), 0, 4), ((0, 4), 2, 4)])
def test_matrices_without_such_a_mask_are_refused(shape, keep, group):
    """Rows or columns that are no whole number of groups, and patterns that are none, end in a sentence."""
    with pytest.raises(BadRequest):
        transposable(torch.ones(shape), keep, group)


def test_not_a_number_is_refused():
    """A NaN score cannot be ranked."""
    scores = torch.ones(4, 4)
    scores[1, 2] = torch.nan
    with pytest.raises(NonFinite, match="1 of 16"):
        transposable(scores, 2, 4)
