"""Exact selection in a few passes over data too large to hold: histograms of keys, digit by digit, and a quota of ties.

    round 1    every list counts its keys by their highest digit (16 bits)
    cut        the digit in which the number of keys to keep runs out; what is above stays, what is below goes
    round 2..  only keys that agree so far are counted, by their next digit
    end        one key is left, the threshold: keys above it stay, and of those equal to it as many as are missing,
               in the order of the lists, and inside a list in its own order

One round decides keys of 16 bits, two those of 32. Counts are integers, so the outcome does not depend on slices or on
threads, and equals a stable sort: the mask of the whole, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]
DIGIT = 16


def digits(bits: int) -> tuple[tuple[int, int], ...]:
    """Shift and width of each digit of a key of so many bits, highest first: 31 -> ((15, 16), (0, 15))."""
    tops = range(bits, 0, -DIGIT)
    return tuple((max(top - DIGIT, 0), min(top, DIGIT)) for top in tops)


def counts_of_digit(keys: Array, shift: int, width: int, prefix: int | None = None) -> Array:
    """How many keys have each value of a digit, int64 [2^width]; only keys whose higher bits are `prefix`, when it is given.

    Args:
        keys: unsigned integers, any shape.
        shift, width: of the digit.
        prefix: what the bits above the digit have to be; None = not looked at.
    """
    flat = keys.reshape(-1)
    if prefix is not None:
        flat = flat[(flat >> flat.dtype.type(shift + width)) == prefix]
    digit = flat >> flat.dtype.type(shift) if shift else flat
    if prefix is not None:
        digit = digit & digit.dtype.type((1 << width) - 1)
    whole = digit.dtype.itemsize
    signed = digit if whole == 1 else digit.view(f"i{whole}")  # torch counts signed integers; the digit leaves the sign bit free
    counted: Array = torch.bincount(torch.from_numpy(signed), minlength=1 << width).numpy()
    return counted


@dataclass(frozen=True, eq=False)
class Trimmed:
    """Counts by value of which only the range that occurs is held."""

    first: int
    counts: Array
    size: int

    @classmethod
    def of(cls, counts: Array) -> Trimmed:
        """The same counts in less memory."""
        there = np.flatnonzero(counts)
        first, last = (int(there[0]), int(there[-1]) + 1) if there.size else (0, 0)
        return cls(first, counts[first:last].astype(np.int64), len(counts))

    def whole(self) -> Array:
        """All counts, int64."""
        counts = np.zeros(self.size, dtype=np.int64)
        counts[self.first : self.first + len(self.counts)] = self.counts
        return counts

    def at(self, value: int) -> int:
        """How often one value occurs."""
        index = value - self.first
        return int(self.counts[index]) if 0 <= index < len(self.counts) else 0

    def above(self, value: int) -> int:
        """How often larger values occur."""
        return int(self.counts[max(0, value + 1 - self.first) :].sum())


@dataclass(frozen=True)
class Race:
    """Lists that compete for a number of places, and how far the threshold is known.

    Args:
        names: the lists, in the order in which ties are served.
        keep: keys that stay, over all lists.
        prefix: the digits of the threshold found so far.
        above: name -> keys known to be above the threshold.
    """

    names: tuple[str, ...]
    keep: int
    prefix: int
    above: Mapping[str, int]

    @classmethod
    def of(cls, names: tuple[str, ...], keep: int) -> Race:
        """Nothing is known yet."""
        return cls(names, keep, 0, dict.fromkeys(names, 0))

    def narrowed(self, counts: Mapping[str, Trimmed], width: int) -> Race:
        """One digit further.

        Args:
            counts: of every list, the keys that agree with the prefix, by their next digit.
            width: of that digit.
        """
        total = sum((counts[name].whole() for name in self.names), start=np.zeros(1 << width, dtype=np.int64))
        digit = _cut(total, self.keep - sum(self.above.values()))
        above = {name: self.above[name] + counts[name].above(digit) for name in self.names}
        return replace(self, prefix=(self.prefix << width) | digit, above=above)

    def cuts(self, last: Mapping[str, Trimmed], width: int) -> dict[str, Cut]:
        """What each list keeps, once the last digit is known.

        Args:
            last: the counts of the last round.
            width: of the last digit.
        """
        missing = self.keep - sum(self.above.values())
        found = {}
        for name in self.names:
            equal = last[name].at(self.prefix & ((1 << width) - 1))
            ties = min(equal, missing)
            missing -= ties
            found[name] = Cut(self.above[name] + ties, self.prefix, ties, equal)
        return found


@dataclass(frozen=True)
class Cut:
    """Where one list is cut.

    Args:
        kept: how many of its keys stay.
        key: larger keys stay, smaller ones go.
        ties: how many of those equal to `key` stay, the first ones.
        equal: how many are equal to it.
    """

    kept: int
    key: int
    ties: int
    equal: int

    @property
    def splits_ties(self) -> bool:
        """True when some of the equal keys stay and others go, so that their order counts."""
        return 0 < self.ties < self.equal

    @property
    def keeps_no_zero(self) -> bool:
        """True when every key that stays is above zero."""
        return self.key > 0 or self.ties == 0

    def keep(self, keys: Array, seen: int = 0) -> Array:
        """Which keys of the next slice stay, bool, same shape.

        Args:
            keys: the slice, in the list's order.
            seen: keys equal to the threshold in the slices before; it only matters where ties are split.
        """
        if not self.splits_ties:
            return np.greater(keys, self.key) if self.ties == 0 else np.greater_equal(keys, self.key)
        return self.keep_some(keys, seen)[0]

    def keep_some(self, keys: Array, seen: int) -> tuple[Array, int]:
        """The same where ties are split, and how many keys of the slice equal the threshold."""
        equal = keys == self.key
        found, left = int(np.count_nonzero(equal)), max(0, self.ties - seen)
        if found <= left:
            return np.greater_equal(keys, self.key), found
        stay = np.greater(keys, self.key)
        if left:
            stay.reshape(-1)[np.flatnonzero(equal)[:left]] = True
        return stay, found


def _cut(total: Array, missing: int) -> int:
    """The digit in which `missing` keys, counted from the highest, run out; the highest one when none is missing."""
    if missing <= 0:
        return len(total) - 1
    reached = np.cumsum(total[::-1])
    return len(total) - 1 - int(np.searchsorted(reached, missing))
