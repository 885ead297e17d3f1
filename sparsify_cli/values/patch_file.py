"""Changing numbers inside a file that stays what it is: written at their places, and checksums over them renewed."""

from __future__ import annotations

import hashlib
import os
import shutil
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsify_cli.values.atomic import replace_file
from sparsify_cli.values.layout import Check, Layout, Place
from sparsify_cli.values.raw_file import opened, read_at, write_at

Array = npt.NDArray[Any]
PIECE = 1 << 20
"""Bytes of which a checksum is taken at a time."""


def put(descriptor: int, place: Place, numbers: Array) -> None:
    """Write a tensor's numbers at its place, whatever its strides.

    Args:
        descriptor: of the file, open for reading and writing.
        place: where.
        numbers: flat, row-major, as unsigned or signed integers of the tensor's width.
    """
    if place.is_contiguous:
        write_at(descriptor, place.offset, numbers)
        return
    span = read_at(descriptor, place.offset, (place.end - place.offset) // place.width, numbers.dtype)
    strided(span, place)[...] = numbers.reshape(place.shape)
    write_at(descriptor, place.offset, span)


def strided(span: Array, place: Place) -> Array:
    """The numbers of a tensor inside the run of memory from its first to its last one; a view."""
    return np.lib.stride_tricks.as_strided(span, place.shape, tuple(step * place.width for step in place.strides))


def renew(source: int, copy: int, checks: Sequence[Check], changed: Iterable[Place]) -> None:
    """Compute anew the checksums over ranges in which numbers changed; last those of ranges that hold other checksums.

    One that was not that of its range before (the original is damaged, or was saved without) is left as it was: nobody
    vouched for what is there, and nobody does now.

    Args:
        source, copy: descriptors of the original, and of the copy in which numbers changed.
        checks: of this file.
        changed: where.
    """
    places = list(changed)
    touched = [c for c in checks if any(place.offset < c.start + c.length and place.end > c.start for place in places)]
    apart, around = _in_turn(touched)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done in [pool.submit(_renew, source, copy, check) for check in apart]:
            done.result()
    for check in around:
        _renew(source, copy, check)


def _in_turn(checks: Sequence[Check]) -> tuple[list[Check], list[Check]]:
    """Checks that may be renewed at once; and then, one after the other, those over ranges that hold checksums themselves."""
    stored = sorted(at for check in checks for at in check.stored)
    apart: list[Check] = []
    around: list[Check] = []
    for check in checks:
        holds = bisect_left(stored, check.start) < bisect_left(stored, check.start + check.length)
        (around if holds else apart).append(check)
    return apart, around


def _renew(source: int, copy: int, check: Check) -> None:
    before = _checksum(source, check)
    if os.pread(source, len(before), check.stored[0]) == before:
        after = _checksum(copy, check)
        for offset in check.stored:
            os.pwrite(copy, after, offset)


def _checksum(descriptor: int, check: Check) -> bytes:
    parts = _parts(descriptor, check.start, check.start + check.length)
    return _sha256(parts) if check.digest == "sha256" else _crc(parts)


def _parts(descriptor: int, start: int, end: int) -> Iterator[memoryview]:
    """Bytes [start, end) piece by piece, each in the memory of the one before."""
    room = memoryview(bytearray(min(PIECE, end - start)))
    while start < end:
        count = os.preadv(descriptor, [room[: end - start]], start)
        if not count:
            return
        yield room[:count]
        start += count


def _crc(parts: Iterable[memoryview]) -> bytes:
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return crc.to_bytes(4, "little")


def _sha256(parts: Iterable[memoryview]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest().encode()


def write_patched(layout: Layout, folder: Path, changes: Mapping[str, tuple[Place, Array]]) -> None:
    """Copies of all files of a layout with some tensors' numbers replaced; everything else is the same byte for byte.

    Args:
        layout: of the original.
        folder: where the copies go, under the same names.
        changes: name -> place and new numbers (flat integers of the same width).
    """
    for name in layout.files:
        here = [(place, numbers) for place, numbers in changes.values() if place.file == name]
        checks = [check for check in layout.checks if check.file == name]
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        replace_file(folder / name, lambda path, name=name, here=here, checks=checks: _patch(layout.root / name, path, here, checks))  # type: ignore[misc]


def _patch(source: Path, path: Path, changes: Sequence[tuple[Place, Array]], checks: Sequence[Check]) -> None:
    shutil.copyfile(source, path)
    with opened(source) as original, opened(path, write=True) as descriptor:
        for place, numbers in changes:
            put(descriptor, place, numbers)
        renew(original, descriptor, checks, (place for place, _ in changes))
