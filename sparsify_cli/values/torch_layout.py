"""From the pickle of a torch checkpoint to its layout, and from anything that goes wrong on the way to one sentence."""

from __future__ import annotations

import bisect
import contextlib
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from sparsify_cli.errors import MissingFile, SparsifyError, UnreadableFile
from sparsify_cli.values.layout import Check, Layout
from sparsify_cli.values.pickle_tree import NotAPickle, Reading
from sparsify_cli.values.torch_names import require_harmless
from sparsify_cli.values.torch_tables import Contradiction, Resolve, find

AGAIN = "Copy it again from where it came, or save it again."


def layout_of(kind: str, path: Path, reading: Reading, resolve: Resolve, *, trust: bool) -> Layout:
    """The layout of a checkpoint of one file, without checksums.

    Raises:
        UnsafePickle: the pickle names code, and the file is not trusted.
        Contradiction: a tensor does not fit its storage.
    """
    foreign = require_harmless(path, reading.names, reading.tree, trust=trust)
    found = find(reading.tree, resolve)
    return Layout(
        kind=kind,
        path=path,
        root=path.parent,
        files=(path.name,),
        tables=found.tables,
        others=found.others,
        odd=found.odd,
        foreign=foreign,
    )


def touched(layout: Layout, checks: list[Check]) -> tuple[Check, ...]:
    """Those of a file's checksums that cover a tensor of some table."""
    begins = sorted(place.offset for table in layout.tables.values() for place in table.values() if place.size)
    return tuple(check for check in checks if _any_within(begins, check.start, check.start + check.length))


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a file is parsed into one sentence about it.

    Raises:
        UnreadableFile: anything that is not a sentence already.
        MissingFile: there is no such file.
    """
    try:
        yield
    except SparsifyError:
        raise
    except FileNotFoundError as error:
        raise MissingFile(f"There is no checkpoint {path}.") from error
    except (NotAPickle, Contradiction) as error:
        raise unreadable(path, str(error)) from error
    except (OSError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise unreadable(path, f"it does not parse ({type(error).__name__})") from error
    except (RecursionError, MemoryError, struct.error) as error:
        raise unreadable(path, f"it does not parse ({type(error).__name__})") from error


def unreadable(path: Path, why: str) -> UnreadableFile:
    """The error for a checkpoint that is damaged; `why` is a part of a sentence."""
    return UnreadableFile(f"{path} cannot be read as a checkpoint.", f"It is truncated or corrupt: {why}.", AGAIN)


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """The bytes of a file, read only where they are looked at."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _any_within(ordered: list[int], start: int, end: int) -> bool:
    at = bisect.bisect_left(ordered, start)
    return at < len(ordered) and ordered[at] < end
