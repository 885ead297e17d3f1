"""The identity of a file: the sha256 of its bytes, or of a sample of them where it is very large.

Kept apart so that looking at an artifact needs no torch. Reading every byte of a file of many gigabytes would take longer
than pruning it; of one above `WHOLE` bytes its size, both ends and a page of every 8 MiB are taken. A file that was cut,
replaced or pruned anew does not pass; a single flipped bit may, and the `sampled-` before the digits says so.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path


def sha256_of(path: Path) -> str:
    """sha256 of a file's bytes, as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


WHOLE = 256 << 20
"""Bytes up to which all of a file is read."""

PAGE, STEP, ENDS = 4096, 8 << 20, 1 << 20
"""Bytes of a sample, from one sample to the next, and at either end."""


def fingerprint(path: Path, *, whole: bool | None = None) -> str:
    """The sha256 of a file, or `sampled-` and that of a sample of it.

    Args:
        path: the file.
        whole: read all of it; None = when it has at most `WHOLE` bytes.
    """
    size = path.stat().st_size
    if size <= WHOLE if whole is None else whole:
        return sha256_of(path)
    state = hashlib.sha256(f"{size}".encode())
    with path.open("rb") as file:
        for offset, count in [(0, ENDS), *((start, PAGE) for start in range(ENDS, size - ENDS, STEP)), (max(0, size - ENDS), ENDS)]:
            state.update(os.pread(file.fileno(), count, offset))
    return f"sampled-{state.hexdigest()}"


def joint_fingerprint(root: Path, names: Sequence[str]) -> str:
    """The fingerprint of a file, or of several together, sampled when all of them are larger than `WHOLE`."""
    if len(names) == 1:
        return fingerprint(root / names[0])
    whole = sum((root / name).stat().st_size for name in names) <= WHOLE
    return hashlib.sha256("\n".join(f"{name} {fingerprint(root / name, whole=whole)}" for name in names).encode()).hexdigest()
