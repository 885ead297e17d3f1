"""Patterns of zeros: what is found run by run is what the whole tensor holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sparsify_cli.maths.found_patterns import Zeros


def blocks(rows, columns, kept, shape=(16, 16)):
    """A matrix whose blocks at `kept` positions stay."""
    grid = np.zeros((shape[0] // rows, shape[1] // columns), dtype=bool)
    for at in kept:
        grid[at] = True
    return grid.repeat(rows, 0).repeat(columns, 1)


@pytest.mark.parametrize(
    ("row", "found"),
    [
        ([1, 0, 0, 0, 0, 0, 0, 1], "1:4"),
        ([1, 0, 1, 0, 0, 1, 1, 0], "1:2"),
        ([1, 1, 0, 0, 0, 1, 1, 0], "2:4"),
        ([1, 1, 1, 0, 1, 0, 0, 0], "4:8"),
        ([1, 1, 1, 0, 1, 1, 0, 0], ""),
        ([1, 1, 1, 1, 1, 1, 0, 0], ""),
        ([1, 1, 1, 1, 1, 1, 1, 1], ""),
        ([0, 0, 0, 0, 0, 0, 0, 0], ""),
    ],
)
def test_the_strictest_pattern_is_found(row, found):
    """Eight inputs by hand; every pair with at most one is 1:2, which says more than 2:4; a tensor of zeros has none."""
    assert Zeros.of(np.array([row, row], dtype=bool)).pattern == found


def pruned(n, m, rows=16, columns=64):
    """A random matrix of which n of each m inputs stay."""
    ranks = np.random.default_rng(0).random((rows, columns // m, m)).argsort(-1)
    return (ranks < n).reshape(rows, columns)


@pytest.mark.parametrize("pair", [(1, 8), (3, 8), (5, 8), (3, 4), (1, 16), (7, 16), (1, 32), (9, 32)])
def test_any_n_of_m_is_found(pair):
    """What was pruned N:M is told as N:M, with a dead output too."""
    kept = pruned(*pair)
    assert Zeros.of(kept).pattern == f"{pair[0]}:{pair[1]}"
    kept[3] = False
    assert Zeros.of(kept).pattern == f"{pair[0]}:{pair[1]}"


@pytest.mark.parametrize("pair", [(2, 4), (1, 4), (4, 8)])
def test_what_holds_along_outputs_too(pair):
    """Shifted diagonals hold N:M in rows and columns, whichever way they are stored; with one more in a column T is gone."""
    keep, group = pair
    square = np.array([[(i + j) % group < keep for j in range(group)] for i in range(group)])
    kept = np.tile(square, (64 // group, 32 // group))
    for transposed in (False, True):
        assert Zeros.of(kept, transposed=transposed).pattern == f"{keep}:{group}T"
        halves = Zeros.of(kept[:32], transposed=transposed) + Zeros.of(kept[32:], transposed=transposed)
        assert halves == Zeros.of(kept, transposed=transposed) and halves.pattern == f"{keep}:{group}T"
    row = kept[40].copy()
    kept[40] = kept[41]  # its rows are as full as ever
    assert (row != kept[40]).any() and Zeros.of(kept).pattern == f"{keep}:{group}"
    assert Zeros.of(kept.T.copy(), transposed=True).pattern == f"{keep}:{group}"
    images = np.tile(kept[:, :, None, None], (1, 1, 3, 3))
    assert Zeros.of(images).pattern == f"{keep}:{group}"


def test_zeros_anywhere_are_no_pattern():
    """Where a third or a half is zero by chance, about 25 of 32 stay at most: no pattern, as few groups have so many."""
    for share in (0.3, 0.5):
        assert Zeros.of(np.random.default_rng(0).random((64, 256)) > share).pattern == ""


@pytest.mark.parametrize("pair", [(2, 4), (1, 4), (3, 8), (5, 32)])
def test_weights_stored_the_other_way_round(pair):
    """The same weight stored [in, out] shows the same pattern, blocks, dead rows and columns, whole and in runs of rows."""
    kept = pruned(*pair, rows=24)
    kept[5] = False
    found = Zeros.of(kept.T.copy(), transposed=True)
    assert found.pattern == f"{pair[0]}:{pair[1]}"
    assert (found.dead_rows, found.dead_columns) == (1, int((~kept.any(0)).sum()))
    assert Zeros.of(kept.T[:32].copy(), transposed=True) + Zeros.of(kept.T[32:].copy(), transposed=True) == found
    wide = blocks(4, 1, [(0, 3), (2, 5)])
    assert Zeros.of(wide.T.copy(), transposed=True).block == "4x1"


def test_patterns_of_convolutions_run_along_channels():
    """Four input channels at each kernel position; along the kernel nothing is asked, and three channels carry nothing."""
    kept = np.zeros((2, 4, 3, 3), dtype=bool)
    kept[:, 0] = True
    assert Zeros.of(kept).pattern == "1:4"
    assert Zeros.of(np.eye(3, dtype=bool)).pattern == ""


@pytest.mark.parametrize("size", [(4, 1), (1, 4), (4, 4), (8, 8), (1, 16), (16, 1)])
def test_blocks_are_found(size):
    """All zeros come in blocks, some on a diagonal so that no smaller description fits; one further zero spoils it."""
    kept = blocks(*size, [(0, 0), (1, 1)], shape=(2 * size[0], 2 * size[1]))
    assert Zeros.of(kept).block == f"{size[0]}x{size[1]}"
    kept[0, 0] = False
    assert Zeros.of(kept).block != f"{size[0]}x{size[1]}"


def test_whole_rows_and_columns():
    """Three outputs and two inputs that are gone are told by their counts, and as `channel` when nothing else is zero."""
    kept = np.ones((8, 6, 3, 3), dtype=bool)
    kept[[0, 3, 7]] = False
    kept[:, [1, 5]] = False
    found = Zeros.of(kept)
    assert (found.dead_rows, found.dead_columns, found.block, found.zeros) == (3, 2, "channel", 3 * 54 + 5 * 18)
    kept[1, 0, 0, 0] = False
    assert Zeros.of(kept).block == ""


def test_dense_and_empty():
    """Nothing to find where nothing or everything is zero, or where nothing is."""
    for kept in (np.ones((4, 4), dtype=bool), np.zeros((4, 4), dtype=bool), np.ones((0, 4), dtype=bool), np.ones((4, 0), dtype=bool)):
        found = Zeros.of(kept)
        assert (found.pattern, found.block) == ("", "")


@pytest.mark.parametrize("at", [32])
def test_runs_of_rows_add_up(at):
    """Every weight of a zoo, cut between two runs of rows: the sum says what the whole says."""
    random = np.random.default_rng(0).random((48, 32))
    zoo = [random > 0.5, np.ones((48, 32), dtype=bool), blocks(16, 16, [(0, 0), (2, 1)], (48, 32)), blocks(4, 1, [(2, 5)], (48, 32))]
    zoo += [np.indices((48, 32))[1] % 4 < 2, np.indices((48, 32))[0] < at, zoo[0] & (np.indices((48, 32))[0] >= at)]
    for whole in zoo:
        one, both = Zeros.of(whole), Zeros.of(whole[:at]) + Zeros.of(whole[at:])
        assert both == one
        assert (both.pattern, both.block, both.dead_columns) == (one.pattern, one.block, one.dead_columns)


def test_against_brute_force():
    """Every 4 x 4 matrix with two rows free (256 of them): groups and blocks counted one by one."""
    for bits in itertools.product((False, True), repeat=8):
        kept = np.array([*bits, *[True] * 8], dtype=bool).reshape(4, 4)
        found = Zeros.of(kept)
        groups = [sum(row) <= 2 for row in kept.tolist()]
        assert found.fullest[4] == 4 and not all(groups)
        column_blocks = all(len(set(kept[:, j].tolist())) == 1 for j in range(4))
        assert ((4, 1) in found.blocks) == column_blocks
        assert ((1, 4) in found.blocks) == all(len(set(row)) == 1 for row in kept.tolist())
