"""Atomic writing: a reader sees the old file or the whole new one, never a part.

The new content goes to a temporary name in the same folder, is flushed to the disk and renamed over the old file; an
interrupted or failed write leaves the old file as it was and no temporary behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from sparsify_cli.errors import DiskFailure

REASONS = {
    errno.ENOSPC: ("The disk is full.", "Free some space or write elsewhere with --out, then run the command again."),
    errno.EDQUOT: ("The disk quota is used up.", "Free some space or write elsewhere with --out, then run the command again."),
    errno.EFBIG: ("The file is larger than the system allows.", "Raise the limit (ulimit -f) or write elsewhere with --out."),
    errno.EACCES: ("Permission was denied.", "Make the folder writable or write elsewhere with --out."),
    errno.EPERM: ("Permission was denied.", "Make the folder writable or write elsewhere with --out."),
    errno.EROFS: ("The file system is read-only.", "Write elsewhere with --out."),
    errno.ENOENT: ("Its folder is not there.", "Create the folder first."),
    errno.ENOTDIR: ("A part of the path is a file, not a folder.", "Choose another path with --out."),
    errno.EEXIST: ("A file of that name is in the way.", "Choose another path with --out."),
    errno.EISDIR: ("A folder of that name is in the way.", "Move it away or choose another path with --out."),
    errno.ENAMETOOLONG: ("The name is too long.", "Choose a shorter path with --out."),
    0: ("Torch could not write all of it, most often because the disk is full.", "Check the free space, then run the command again."),
}


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all.

    Args:
        path: the file to create or replace; its folder exists.
        write: writes the content to the path it is given (same folder and suffix as `path`).

    Raises:
        DiskFailure: the file system refused (full, read-only, no such folder, a folder in the way).
    """
    with disk_failures(path):
        temporary = path.with_name(f".{secrets.token_hex(4)}-{path.name[-80:]}")
        try:
            mode = _create(temporary)
            write(temporary)
            temporary.chmod(mode)  # safetensors leaves its files readable by their owner only
            _flush(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush(path.parent)


@contextlib.contextmanager
def disk_failures(path: Path) -> Iterator[None]:
    """Turn what the file system refuses inside the block into one sentence about `path`.

    Raises:
        DiskFailure: an OSError, or the same thing as torch and safetensors report it.
    """
    try:
        yield
    except Exception as error:  # safetensors and torch report a full disk as exceptions of their own
        if _refusal(error) is None:
            raise
        raise _failure(path, error) from error


def _create(path: Path) -> int:
    """Make an empty file; returns the permissions the user's umask gives it."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    try:
        return os.fstat(descriptor).st_mode & 0o777
    finally:
        os.close(descriptor)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refusal(error: Exception) -> int | None:
    """The errno behind an exception, torch's and safetensors' own ones too; 0 when torch hides it; None when it is not about the disk."""
    if isinstance(error, OSError):
        return error.errno or errno.EIO
    if found := re.search(r"\(os error (\d+)\)", str(error)):
        return int(found.group(1))
    by_torch = any(word in str(error) for word in ("PytorchStreamWriter", "inline_container", "iostream error"))
    return 0 if by_torch else None


def _failure(path: Path, error: Exception) -> DiskFailure:
    unknown = (f"The system says: {error}.", "Check the disk and the path, then run the command again.")
    why, do = REASONS.get(_refusal(error) or 0, unknown)
    return DiskFailure(f"Cannot write {path}.", f"{why} Nothing was changed.", do)
