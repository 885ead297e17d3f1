"""Byte ranges of a file, here or behind a URL, and how many bytes were asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sparsify_cli.errors import MissingFile, UnreadableFile
from sparsify_cli.values.raw_file import opened

CHUNK = 1 << 30
"""Bytes that are asked of the system at a time."""


@dataclass(eq=False)
class Ranges:
    """Something that can be read from any place.

    Args:
        name: for sentences.
        size: bytes there are.
        fetch: (start, end) -> bytes.
        read: bytes asked for so far.
        requests: how often.
        whole: everything, where a server sends nothing less.
    """

    name: str
    size: int
    fetch: Callable[[int, int], bytes]
    read: int = 0
    requests: int = 0
    whole: bytes | None = None

    def take(self, start: int, end: int) -> bytes:
        """The bytes from `start` up to `end`.

        Raises:
            UnreadableFile: the file is shorter.
        """
        if not 0 <= start <= end <= self.size:
            raise UnreadableFile(f"{self.name} is damaged.", f"It ends after {self.size:,} bytes.", "Fetch it again.")
        if start == end:
            return b""
        if self.whole is None:
            found = self.fetch(start, end)
            self.read, self.requests = self.read + len(found), self.requests + 1
            if len(found) == self.size > end - start:  # a server that knows no ranges
                self.whole = found
        if self.whole is not None:
            return self.whole[start:end]
        if len(found) != end - start:
            what = f"{len(found):,} bytes came instead of {end - start:,}."
            raise UnreadableFile(f"{self.name} cannot be read in parts.", what, "Fetch the whole file first.")
        return found


def is_url(text: str) -> bool:
    """True for `protocol://...`."""
    protocol, colon, rest = text.partition("://")
    return bool(colon and rest and protocol.isidentifier())


def file_url(url: str, name: str) -> str:
    """The URL of a file: `url` itself, or that of the file called `name` in the folder behind it."""
    plain = url.rstrip("/")
    return plain if plain.endswith(Path(name).suffix) else f"{plain}/{name}"


@contextmanager
def ranges(source: str | Path) -> Iterator[Ranges]:
    """Open a path, or a URL that fsspec knows: http, https, s3, gs, memory, ...

    Raises:
        MissingFile: nothing is there.
        UnreadableFile: the protocol needs a package that is not installed, or the server refused.
    """
    if is_url(str(source)):
        yield _remote(str(source))
        return
    path = Path(source)
    if not path.is_file():
        raise MissingFile(f"There is no file {path}.", "", "Check the path.")
    with opened(path) as descriptor:
        yield Ranges(str(path), path.stat().st_size, partial(_read_at, descriptor))


def _read_at(descriptor: int, start: int, end: int) -> bytes:
    """The bytes of a file; one call of the system gives 2 GB at most."""
    parts = []
    while start < end and (part := os.pread(descriptor, min(end - start, CHUNK), start)):
        parts.append(part)
        start += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _remote(url: str) -> Ranges:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
        size = int(system.info(path)["size"])
    except FileNotFoundError as error:
        why = f"{type(error.__cause__).__name__}: {error.__cause__}." if error.__cause__ else ""
        raise MissingFile(f"There is no file {url}.", why, "Check the address.") from error
    except (ImportError, ValueError) as error:
        raise UnreadableFile(f"{url} cannot be opened.", f"{error}.", "Install what it needs, or fetch the file first.") from error
    except Exception as error:  # whatever a server or its client says
        raise UnreadableFile(f"{url} cannot be read.", f"{type(error).__name__}: {error}.", "Fetch the file first.") from error
    return Ranges(url, size, _fetching(system, path, url))


def _fetching(system: Any, path: str, url: str) -> Callable[[int, int], bytes]:
    def fetch(start: int, end: int) -> bytes:
        try:
            return bytes(system.cat_file(path, start=start, end=end))
        except Exception as error:
            raise UnreadableFile(f"{url} broke off.", f"{type(error).__name__}: {error}.", "Try again.") from error

    return fetch
