"""Layout: where the numbers of every tensor lie in the files of a checkpoint. Read from headers alone; needs no torch.

A checkpoint of almost any kind is a file (or several) in which each tensor is a plain run of bytes. Who knows the places
can copy the file byte for byte and change nothing but the weights: the result is of the same kind, with the same names,
wrapper, optimizer state, sharing and everything else, whatever the kind is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

WIDTHS = {
    **dict.fromkeys(("bool", "uint8", "int8", "float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz", "float8_e8m0fnu"), 1),
    **dict.fromkeys(("int16", "uint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}
"""Types of number by torch's word -> bytes a number."""

FLOATS = frozenset(word for word in WIDTHS if word.startswith(("float", "bfloat")))
"""Types that weights have."""


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a contiguous tensor of `shape`."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


@dataclass(frozen=True)
class Place:
    """Where one tensor lies.

    Args:
        file: name of the file, relative to the layout's root.
        offset: byte in the file at which element 0 begins.
        dtype: torch's word, a key of `WIDTHS`.
        shape: sizes.
        strides: in elements; empty = contiguous, row-major.
    """

    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] = ()

    @property
    def width(self) -> int:
        """Bytes a number."""
        return WIDTHS[self.dtype]

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its numbers."""
        return self.size * self.width

    @property
    def is_float(self) -> bool:
        """True for types that weights have."""
        return self.dtype in FLOATS

    @property
    def is_contiguous(self) -> bool:
        """True when its numbers lie one after the other in row-major order."""
        strides = self.strides or row_major(self.shape)
        return not self.size or all(n == 1 or s == r for n, s, r in zip(self.shape, strides, row_major(self.shape), strict=True))

    @property
    def end(self) -> int:
        """First byte of the file behind its last number."""
        if not self.size:
            return self.offset
        strides = self.strides or row_major(self.shape)
        return self.offset + (1 + sum((n - 1) * s for n, s in zip(self.shape, strides, strict=True))) * self.width


@dataclass(frozen=True)
class Check:
    """A checksum that a file holds over a range of its own bytes and that has to be renewed when they change.

    Args:
        file: name of the file, relative to the layout's root.
        start, length: the range, in bytes.
        stored: offsets in the file where the checksum of the range is written.
        digest: `crc32`, 4 bytes little-endian, or `sha256`, 64 hexadecimal digits.
    """

    file: str
    start: int
    length: int
    stored: tuple[int, ...]
    digest: str = "crc32"


@dataclass(frozen=True)
class Hint:
    """What a file's own graph says about a weight.

    Args:
        operator: the operator that takes it as its weight, e.g. `Conv`, `MatMul`, `Gather`.
        transposed: True when it is stored [in, out / groups] instead of [out, in / groups].
        groups: of the operator that takes it.
    """

    operator: str
    transposed: bool = False
    groups: int = 1


Key = tuple[str, ...]
"""The keys that lead to a table of tensors, outermost first; () for the top of the file."""


@dataclass(frozen=True)
class Layout:
    """Everything the headers of a checkpoint say.

    Args:
        kind: name of the format on the shelf of formats.
        path: the file or folder that was named.
        root: the folder that the names of files are relative to.
        files: names of the files that hold tensors, in the order in which they are written.
        tables: keys that lead to a mapping of named tensors -> name -> place; in the order of the file.
        companions: names of further files of a folder, carried along untouched.
        others: dotted name of an entry that is no named tensor (epoch, optimizer, arguments) -> what it is, in a few words.
        odd: dotted name of a tensor that is not plain numbers -> why, e.g. "stored sparse".
        checks: checksums to renew after numbers changed, in that order.
        hints: name of a tensor -> what the file's graph says about it.
        foreign: names of code that a pickle mentions; it was not run.
        metadata: text entries of the header.
    """

    kind: str
    path: Path
    root: Path
    files: tuple[str, ...]
    tables: Mapping[Key, Mapping[str, Place]]
    companions: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)
    odd: Mapping[str, str] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    hints: Mapping[str, Hint] = field(default_factory=dict)
    foreign: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Bytes on disk of the files that hold tensors."""
        return sum((self.root / name).stat().st_size for name in self.files)
