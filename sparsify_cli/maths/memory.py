"""How much memory this process may take: what the machine has, or less where a container or `ulimit` allows less."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

UNKNOWN = 1 << 34
"""Bytes where the machine does not say: 16 GiB."""


def machine_memory(root: Path = Path("/")) -> int:
    """Bytes of memory there are for this process.

    Args:
        root: where `proc` and `sys` are.
    """
    return min((_physical(), *_of_groups(root), *_of_process()))


def _physical() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else UNKNOWN


def _of_process() -> Iterator[int]:
    """What `ulimit -v` allows."""
    with contextlib.suppress(ImportError):
        import resource  # not on Windows

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit


def _of_groups(root: Path) -> Iterator[int]:
    """What control groups allow, of both versions: those of the process and of every group around it."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if not controllers:
            yield from _around(root / "sys/fs/cgroup", path, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _around(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")


def _around(mount: Path, path: str, name: str) -> Iterator[int]:
    """Numbers in the files of a group and of those around it; `max` is none."""
    inner = PurePosixPath(path.lstrip("/"))
    for group in (inner, *inner.parents):
        with contextlib.suppress(ValueError):  # `max`
            if found := int(_text(mount / group / name)):
                yield found


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""
