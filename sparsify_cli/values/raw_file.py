"""Plain reads and writes at a place of a file: no mapping, so memory stays at the size of a slice."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsify_cli.errors import UnreadableFile

Array = npt.NDArray[Any]
CHUNK = 8 << 20
"""Bytes that are copied at a time."""


@contextlib.contextmanager
def opened(path: Path, *, write: bool = False) -> Iterator[int]:
    """A descriptor of a file that is there, closed at the end."""
    descriptor = os.open(path, os.O_RDWR if write else os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_at(descriptor: int, offset: int, count: int, kind: np.dtype[Any], into: Array | None = None) -> Array:
    """`count` numbers from byte `offset` on.

    Args:
        descriptor: of the file.
        offset, count, kind: where they lie, how many they are, and how they are stored.
        into: bytes of memory that hold them; None = new memory.

    Raises:
        UnreadableFile: the file ends before; it was cut while it was read.
    """
    numbers = np.empty(count, dtype=kind) if into is None else into[: count * kind.itemsize].view(kind)
    rest = numbers.view(np.uint8).data
    done = 0
    while done < len(rest):
        got = os.preadv(descriptor, [rest[done:]], offset + done)
        if not got:
            raise UnreadableFile("The file ended while it was read.", "Something else is writing to it.", "Run the command again.")
        done += got
    return numbers


def write_at(descriptor: int, offset: int, numbers: Array) -> None:
    """All bytes of a contiguous array, from byte `offset` on."""
    rest = np.ascontiguousarray(numbers).reshape(-1).view(np.uint8).data
    while len(rest):
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def begin_write_back(descriptor: int, start: int, end: int) -> None:
    """Let the system begin to bring bytes [start, end) to the disk, so that waiting for it at the end takes less time."""
    with contextlib.suppress(OSError, AttributeError):  # not on every system; nothing depends on it
        os.posix_fadvise(descriptor, start, end - start, os.POSIX_FADV_DONTNEED)


def copy_range(source: int, target: int, start: int, end: int) -> None:
    """Bytes [start, end) of one file to the same place of another, by the system itself where it can."""
    while start < end:
        count = _copied(source, target, start, min(end - start, 64 * CHUNK))
        if not count:
            raise UnreadableFile("The file ended while it was copied.", "Something else is writing to it.", "Run the command again.")
        start += count


def _copied(source: int, target: int, start: int, count: int) -> int:
    with contextlib.suppress(OSError, AttributeError):  # not on every system, and not between every two file systems
        return os.copy_file_range(source, target, count, start, start)
    data = os.pread(source, min(count, CHUNK), start)
    return os.pwrite(target, data, start)
