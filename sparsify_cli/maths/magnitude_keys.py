"""Keys of magnitudes: the bits of |w| as unsigned integers, which are in the order of |w| for every float format.

Without its sign bit an IEEE-754 number, read as an integer, grows with its magnitude; so do bfloat16 and the 8-bit
formats. Weights can be ranked, counted and cut without ever being converted: exactly, and at the speed of memory.
Tensors of several types are compared through the bits of float32 (or float64), into which every smaller type goes exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Array = npt.NDArray[Any]

BITS = {
    **dict.fromkeys(("float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz"), 7),
    **{"bfloat16": 15, "float16": 15, "float32": 31, "float64": 63},
}
"""Bits of a magnitude, by torch's word for the type; a key fits into one more."""

INFINITE = {
    **{"float8_e5m2": 0x7C, "float8_e4m3fn": 0x7F, "float8_e5m2fnuz": 0x80, "float8_e4m3fnuz": 0x80},
    **{"bfloat16": 0x7F80, "float16": 0x7C00, "float32": 0x7F80_0000, "float64": 0x7FF0_0000_0000_0000},
}
"""The least key that is infinite or NaN; the formats without a sign of zero write NaN as minus zero, whose key is set here."""

UNSIGNED: dict[int, Any] = {8: np.dtype(np.uint8), 16: np.dtype(np.uint16), 32: np.dtype(np.uint32), 64: np.dtype(np.uint64)}


def common_type(types: Iterable[str]) -> str:
    """The type through whose bits tensors of these types are compared: their own, or the smallest that holds them all exactly."""
    found = set(types)
    if len(found) == 1:
        return found.pop()
    return "float64" if "float64" in found else "float32"


def storage_type(word: str) -> np.dtype[Any]:
    """The unsigned integers as which numbers of a type are read from a file, little-endian."""
    found: np.dtype[Any] = UNSIGNED[BITS[word] + 1].newbyteorder("<")
    return found


def magnitude_keys(raw: Array, word: str, common: str, *, out: Array | None = None) -> Array:
    """Keys of |w|, same shape as `raw`.

    Args:
        raw: numbers of type `word` as unsigned integers.
        word: torch's word for their type.
        common: the type through whose bits they are compared (see `common_type`).
        out: where keys may be put that are as wide as the numbers; `raw` itself too.

    Returns:
        Unsigned integers of the width of `common`; infinite and NaN ones are at least `INFINITE[common]`.
    """
    if word == common:
        return _own_keys(raw, word, out)
    if word == "bfloat16" and common == "float32":
        return (raw & np.uint16(0x7FFF)).astype(np.uint32) << np.uint32(16)
    numbers = torch.from_numpy(np.ascontiguousarray(raw)).view(getattr(torch, word)).to(getattr(torch, common))
    return _own_keys(numbers.numpy().view(UNSIGNED[BITS[common] + 1]), common)


def _own_keys(raw: Array, word: str, out: Array | None = None) -> Array:
    sign = raw.dtype.type(1 << BITS[word])
    if not word.endswith("fnuz"):
        keys: Array = np.bitwise_and(raw, raw.dtype.type(sign - 1), out=out)
        return keys
    apart: Array = np.where(raw == sign, sign, raw & raw.dtype.type(sign - 1))
    return apart


def zero_nonfinite(keys: Array, common: str) -> Array:
    """Keys in which infinite and NaN numbers rank like zeros: they are the first to go."""
    return np.where(keys >= keys.dtype.type(INFINITE[common]), keys.dtype.type(0), keys)
