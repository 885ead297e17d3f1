"""The N largest of every M keys, by counting wins in pairs: no sorting, and no step that depends on the data.

Position i beats position j when its key is larger, or equal and i comes first. A position with at least M - N wins is
among the N best. For 2:4 that is six comparisons of four columns, each at the speed of memory.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
WIDEST = 8
"""Largest M for which comparing all pairs is cheaper than sorting."""


def best_of_groups(keys: Array, keep: int, group: int) -> Array:
    """True at the `keep` largest of every `group` consecutive keys; among equal keys the earlier stays.

    Args:
        keys: unsigned integers, [groups * group] in any shape, row-major.
        keep, group: N and M.

    Returns:
        bool, flat.
    """
    rows = keys.reshape(-1, group)
    return (_by_wins(rows, keep) if group <= WIDEST else _by_sorting(rows, keep)).reshape(-1)


def _by_wins(rows: Array, keep: int) -> Array:
    group = rows.shape[1]
    columns = np.ascontiguousarray(rows.T)  # comparing every fourth number in place takes twice the time
    wins = np.zeros(columns.shape, dtype=np.uint8)
    for i in range(group):
        for j in range(i + 1, group):
            first = columns[i] >= columns[j]
            wins[i] += first
            wins[j] += np.logical_not(first)
    best: Array = np.stack(wins >= group - keep, axis=1)
    return best


def _by_sorting(rows: Array, keep: int) -> Array:
    order = np.argsort(~rows, axis=1, kind="stable")[:, :keep]
    best = np.zeros(rows.shape, dtype=np.bool_)
    np.put_along_axis(best, order, True, axis=1)
    return best
