"""The N largest of every M keys, by counting wins in pairs: no sorting, and no step that depends on the data.

Position i beats position j when its key is larger, or equal and i comes first. A position with at least M - N wins is
among the N best. All positions are compared with those a few steps further at once, in the order in which they lie; where
the counts of a group fill a machine word (M = 2, 4, 8), they are added a group at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
WORDS: dict[int, Any] = {2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
"""The word whose bytes hold one small number for each of M positions."""

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
    if group in WORDS:
        return _by_words(keys.reshape(-1), keep, WORDS[group])
    rows = keys.reshape(-1, group)
    return (_by_wins(rows, keep) if group <= WIDEST else _by_sorting(rows, keep)).reshape(-1)


def _by_words(keys: Array, keep: int, word: np.dtype[Any]) -> Array:
    group = word.itemsize
    wins = np.full(keys.size // group, _bytes(*range(group)), dtype=word)  # as if each had beaten all that come before it
    beats = np.zeros(keys.size, dtype=np.bool_)
    packed = beats.view(word)
    for step in range(1, group):
        np.greater_equal(keys[:-step], keys[step:], out=beats[:-step])
        packed &= word.type(_bytes(*[1] * (group - step)))  # not across two groups
        packed *= word.type((1 - (1 << 8 * step)) % (1 << 8 * group))  # a win here is one less there, a few bytes further
        wins += packed
    best: Array = wins.view(np.uint8) >= group - keep
    return best


def _bytes(*values: int) -> int:
    return int.from_bytes(bytes(values), "little")


def _by_wins(rows: Array, keep: int) -> Array:
    group = rows.shape[1]
    columns = np.ascontiguousarray(rows.T)  # comparing every third number in place takes twice the time
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
