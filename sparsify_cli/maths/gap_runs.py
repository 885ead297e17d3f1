"""Bytes that each storage form takes, found slice by slice: runs of zeros add up where slices meet.

The forms are those of `values/packed.py`: with N positions, K of them not zero and e bytes a value, a bitmask takes
ceil(N/8) + K e bytes; gaps take one number of 1 (or 2) bytes a value, and another for each 255 (or 65535) zeros in a row.

Source: delta lists as in Hoefler et al. 2021 (arXiv 2102.00554), section 2.2; ours are added up over slices, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ESCAPES = (255, 65535)
"""Zeros in a row that one number of 1 and of 2 bytes can say."""


@dataclass(frozen=True)
class Runs:
    """Zeros and values of a run of positions; `a + b` is that of b behind a.

    Args:
        size: positions.
        kept: those that are not zero.
        first: zeros before the first value; all of them when there is none.
        last: zeros behind the last value; all of them when there is none.
        escapes: for each of `ESCAPES`, how often it goes into the zeros between two values.
    """

    size: int = 0
    kept: int = 0
    first: int = 0
    last: int = 0
    escapes: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, kept: npt.NDArray[np.bool_]) -> Runs:
        """The runs of flat positions, True = not zero."""
        count = int(np.count_nonzero(kept))
        if count == kept.size:
            return cls(kept.size, count)
        where = np.flatnonzero(kept)
        if not count:
            return cls(kept.size, 0, kept.size, kept.size)
        gaps = np.diff(where) - 1
        long = gaps[gaps >= ESCAPES[0]]
        found = (int((long // ESCAPES[0]).sum()), int((long // ESCAPES[1]).sum()))
        return cls(kept.size, count, int(where[0]), kept.size - 1 - int(where[-1]), found)

    def __add__(self, other: Runs) -> Runs:
        if not self.kept or not other.kept:
            first = self.first if self.kept else self.size + other.first
            last = other.last if other.kept else self.last + other.size
            return Runs(self.size + other.size, self.kept + other.kept, first, last, (self if self.kept else other).escapes)
        gap = self.last + other.first
        between = tuple(a + b + gap // escape for a, b, escape in zip(self.escapes, other.escapes, ESCAPES, strict=True))
        return Runs(self.size + other.size, self.kept + other.kept, self.first, other.last, (between[0], between[1]))

    def bytes_by_form(self, width: int) -> dict[str, int]:
        """Bytes of each form, headers not counted.

        Args:
            width: bytes a value.
        """
        values = self.kept * width
        found = {"dense": self.size * width, "bitmask": -(-self.size // 8) + values}
        for form, bytes_a_gap, escape, inside in zip(("gaps8", "gaps16"), (1, 2), ESCAPES, self.escapes, strict=True):
            outside = self.first // escape + self.last // escape if self.kept else self.size // escape
            found[form] = values + (self.kept + inside + outside) * bytes_a_gap
        return found
